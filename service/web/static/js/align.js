// The aligned crop of a face, as the service cuts it out for the embedder.

/**
 * The rotation, uniform scale and shift that bring `points` closest to `template` (least squares), as canvas takes it.
 *
 * With points as complex numbers z and w: a = Σ z̄'w' / Σ|z'|², b = w̄ − a·z̄, the centred ones being z' and w'.
 *
 * @param {number[][]} points [x, y] in pixels of the photo
 * @param {number[][]} template [x, y] in pixels of the crop
 * @returns {number[]} a, b, c, d, e, f of `setTransform`
 */
function similarityTransform(points, template) {
  const [zx, zy] = mean(points), [wx, wy] = mean(template);
  let real = 0, imaginary = 0, spread = 0;
  points.forEach(([px, py], i) => {
    const x = px - zx, y = py - zy, u = template[i][0] - wx, v = template[i][1] - wy;
    real += x * u + y * v;
    imaginary += x * v - y * u;
    spread += x * x + y * y;
  });
  const p = real / spread, q = imaginary / spread;
  return [p, q, -q, p, wx - p * zx + q * zy, wy - q * zx - p * zy];
}

/**
 * A canvas with the crop. Points lie on the centres of pixels in the service, half a pixel from where canvas has them.
 *
 * @param {CanvasImageSource} bitmap the photo, upright
 * @param {{width: number, height: number}} image its size in the service, which the landmarks are in
 * @param {{size: number, template: number[][]}} alignment as `/v1/info` tells it
 */
export function alignedCrop(bitmap, image, landmarks, { size, template }, label) {
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = size;
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', label);
  const context = canvas.getContext('2d');
  const half = (list) => list.map(([x, y]) => [x + 0.5, y + 0.5]);
  context.fillRect(0, 0, size, size);
  context.imageSmoothingQuality = 'high';
  context.setTransform(...similarityTransform(half(landmarks), half(template)));
  context.drawImage(bitmap, 0, 0, image.width, image.height);
  return canvas;
}

function mean(points) {
  const sum = points.reduce(([x, y], [u, v]) => [x + u, y + v], [0, 0]);
  return sum.map((value) => value / points.length);
}
