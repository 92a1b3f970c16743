// One photo from the webcam.

import { byId } from './dom.js';

const PROBLEMS = {
  NotAllowedError: 'The browser may not use the webcam: allow it beside the address of the page.',
  NotFoundError: 'There is no webcam.',
  NotReadableError: 'The webcam is used by another program.',
};

/** What the webcam saw when the button was pressed, as a JPEG; null if it was not pressed. */
export async function takePhoto() {
  const dialog = byId('camera-dialog'), video = byId('camera-video');
  const take = byId('camera-take'), told = byId('camera-told');
  let stream = null, photo = null, open = true;
  take.disabled = true;
  told.hidden = true;
  dialog.showModal();
  byId('camera-cancel').onclick = () => dialog.close();
  take.onclick = async () => {
    take.disabled = true;
    photo = await frameOf(video);
    dialog.close();
  };
  const closed = new Promise((resolve) => dialog.addEventListener('close', resolve, { once: true }));
  startCamera().then((started) => {
    stream = started;
    if (!open) return stop(stream);
    video.srcObject = stream;
    video.onplaying = () => { take.disabled = false; take.focus(); };
  }).catch((error) => {
    told.textContent = PROBLEMS[error.name] ?? `The webcam cannot be used: ${error.message}`;
    told.hidden = false;
  });
  await closed;
  open = false;
  video.srcObject = null;
  stop(stream);
  return photo;
}

async function startCamera() {
  if (!navigator.mediaDevices) {
    throw new Error('browsers allow it on https addresses and on localhost only.');
  }
  return navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 }, height: { ideal: 960 } } });
}

async function frameOf(video) {
  const canvas = document.createElement('canvas');
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext('2d').drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, 'image/jpeg', 0.95));
  return new File([blob], 'webcam.jpg', { type: 'image/jpeg' });
}

function stop(stream) {
  stream?.getTracks().forEach((track) => track.stop());
}
