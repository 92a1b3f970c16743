# The service on a plain Python base; docs/containers.md tells how it is built, started and watched.
#   docker build --target cpu -t likeness:cpu .
#   docker build --target gpu -t likeness:gpu .      CUDA 12 comes as Python wheels, the driver from the host
# Any base with Python 3.11 or newer and its venv module will do. An exact version, but no digest: pin one of your own
# with --build-arg BASE_IMAGE=python@sha256:...
ARG BASE_IMAGE=python:3.11.13-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /src
ENV PATH=/opt/likeness/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/likeness
# --no-deps: the locks are complete, and insightface would pull in the CPU onnxruntime and a second OpenCV.
COPY requirements/ requirements/

FROM build AS build-cpu
RUN pip install --no-deps --require-hashes -r requirements/cpu.txt -r requirements/otel.txt
COPY . .
RUN pip install --no-deps --no-build-isolation .
ARG BUNDLE=""
ARG ACCEPT_LICENSE=""
RUN sh deploy/bake.sh "$BUNDLE" "$ACCEPT_LICENSE"

FROM build AS build-gpu
RUN pip install --no-deps --require-hashes -r requirements/gpu.txt -r requirements/otel.txt
COPY . .
RUN pip install --no-deps --no-build-isolation .
ARG BUNDLE=""
ARG ACCEPT_LICENSE=""
RUN sh deploy/bake.sh "$BUNDLE" "$ACCEPT_LICENSE"

FROM ${BASE_IMAGE} AS runtime
RUN groupadd --gid 10001 likeness \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin likeness \
 && install -d -o likeness -g likeness -m 700 /data
COPY --chmod=755 deploy/entry.sh /usr/local/bin/likeness-entry
# The root file system can be read-only: all that is kept is in /data, all that is not in /tmp.
ENV PATH=/opt/likeness/bin:$PATH HOME=/tmp LIKENESS_DATA_DIR=/data LIKENESS_HOST=0.0.0.0 \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
# Drains: docs/api.md, "Under load".
STOPSIGNAL SIGTERM
# The first start obtains weights before it listens. A proxy of the environment, needed for that, is not asked.
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
  CMD ["python3", "-ISc", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:%s/v1/health/ready' % (os.environ.get('LIKENESS_PORT') or 8000), timeout=2)"]
ENTRYPOINT ["likeness-entry"]
CMD ["serve"]

FROM runtime AS gpu
COPY --from=build-gpu /opt/likeness /opt/likeness
COPY --from=build-gpu /opt/weights /opt/weights
ENV LIKENESS_PROVIDER=cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM runtime AS cpu
COPY --from=build-cpu /opt/likeness /opt/likeness
COPY --from=build-cpu /opt/weights /opt/weights
