# syntax=docker/dockerfile:1
# levelq's workers and command line: `docker build -t levelq .`. The servers come from their own images, see
# docker-compose.yml.

FROM python:3.13.9-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# Every archive is checked against its hash here; the next step may install from these files only, so it needs
# no lock of its own, and of all that the lock names only what levelq[worker] needs reaches the image.
COPY requirements.lock ./
RUN python -m pip download --only-binary :all: --require-hashes --requirement requirements.lock --dest wheels
COPY pyproject.toml README.md LICENSE ./
COPY levelq levelq
COPY core core
COPY producer producer
COPY worker worker
RUN python -m pip wheel --no-index --find-links wheels --no-deps --wheel-dir dist . \
 && python -m venv --without-pip /opt/levelq \
 && python -m pip --python /opt/levelq/bin/python install --no-index --find-links wheels --find-links dist --compile "levelq[worker]"

FROM python:3.13.9-slim-trixie
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin levelq
COPY --from=build /opt/levelq /opt/levelq
ENV PATH=/opt/levelq/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
# Whether this container has a live worker process. Not whether the servers are well: that is weather, which a worker
# waits out, and a restart would only cost it its place.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --start-interval=1s --retries=3 \
  CMD grep -qsx 'levelq-worker' /proc/[0-9]*/comm
ENTRYPOINT ["levelq"]
CMD ["worker"]
