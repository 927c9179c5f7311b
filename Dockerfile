# syntax=docker/dockerfile:1
# levelq's workers, command line and console: `docker build -t levelq .`. docker-compose.yml adds the servers' own images.

FROM python:3.13.9-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# This step checks every archive against its hash. The next one installs only what levelq[worker,console] needs, and only from
# these files, so it needs no lock.
COPY requirements.lock ./
RUN python -m pip download --only-binary :all: --require-hashes --requirement requirements.lock --dest wheels
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY docs/how-to/runbook.md docs/how-to/
COPY levelq levelq
COPY core core
COPY producer producer
COPY worker worker
RUN python -m pip wheel --no-index --find-links wheels --no-deps --wheel-dir dist . \
 && python -m venv --without-pip /opt/levelq \
 && python -m pip --python /opt/levelq/bin/python install --no-index --find-links wheels --find-links dist --compile "levelq[worker,console]"

FROM python:3.13.9-slim-trixie
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin levelq
COPY --from=build /opt/levelq /opt/levelq
ENV PATH=/opt/levelq/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
# Whether this container has a live worker process. It does not test the servers: a worker waits for the end of an
# outage, and a restart would not help.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --start-interval=1s --retries=3 \
  CMD grep -qsx 'levelq-worker' /proc/[0-9]*/comm
ENTRYPOINT ["levelq"]
CMD ["worker"]
