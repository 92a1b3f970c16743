# The service on a plain Python base. No weights inside: they are pulled into the volume at first start.
#   docker build -t likeness .                                    CPU
#   docker build -t likeness:gpu --build-arg DEVICE=gpu .         CUDA 12 libraries come as Python wheels
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG DEVICE=cpu
WORKDIR /src
RUN python3 -m venv /opt/likeness
COPY requirements/ requirements/
RUN /opt/likeness/bin/python -m pip install --no-cache-dir --no-deps --require-hashes -r "requirements/${DEVICE}.txt"
COPY pyproject.toml README.md ./
COPY service/ service/
COPY export/ export/
COPY models/ models/
RUN /opt/likeness/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation .

FROM ${BASE_IMAGE}
COPY --from=build /opt/likeness /opt/likeness
RUN useradd --system --uid 10001 --create-home likeness && install -d -o likeness /data
ENV PATH=/opt/likeness/bin:$PATH LIKENESS_DATA_DIR=/data LIKENESS_HOST=0.0.0.0 PYTHONUNBUFFERED=1
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/v1/health/ready', timeout=2)"]
CMD ["sh", "-c", "likeness pull && exec likeness serve"]
