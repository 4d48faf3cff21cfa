# Two stages: the README's build, then the daemon alone with the libraries it needs. The model is not in
# the image; mount it:
#   docker build -t prefixd .
#   docker run -p 8080:8080 -v /path/to/model:/model:ro -v /path/to/keys:/keys:ro prefixd
FROM debian:12-slim AS build
WORKDIR /src
COPY scripts/setup scripts/setup
RUN scripts/setup
COPY . .
RUN make -j"$(nproc)" all

FROM debian:12-slim
RUN apt-get update -q \
 && apt-get install -y -q --no-install-recommends libmicrohttpd12 libuv1 libcjson1 libpcre2-8-0 \
        libsodium23 libutf8proc2 libsqlite3-0 libarchive13 curl \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --home-dir /state --create-home prefixd
COPY --from=build /src/build/prefixd /usr/local/bin/prefixd
USER prefixd
VOLUME /state
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD curl -fsS http://127.0.0.1:8080/ready || exit 1
# Beyond loopback the daemon asks for keys: one bearer key a line in the mounted /keys.
ENTRYPOINT ["prefixd"]
CMD ["--model", "/model", "--state", "/state", "--listen", "0.0.0.0:8080", "--api-key-file", "/keys"]
