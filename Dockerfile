# The gateway and nothing else: no shell, no package manager, no libc.
#
#   docker build -t llmproxy --build-arg VERSION=$(git describe --tags --always) .
#   docker run -p 8000:8000 -v ./llmproxy.yaml:/etc/llmproxy/llmproxy.yaml:ro -v llmproxy:/var/lib/llmproxy llmproxy

FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev TARGETOS=linux TARGETARCH
# /image becomes the image, with these owners and modes.
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /image/usr/bin/llmproxy ./cmd/llmproxy
RUN install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt && \
	install -D -m 0644 -t /image/etc/llmproxy configs/llmproxy.yaml configs/llmproxy.schema.json && \
	install -d -m 1777 /image/tmp /image/var/lib/llmproxy

FROM scratch
COPY --from=build /image /
# Nobody in particular; it needs no right but to listen above port 1023.
USER 65532:65532
# Large uploads wait in /tmp, as files without a name (server.upload_dir). With a
# read-only root, mount something there.
# The default of data_dir: usage that is not delivered yet must outlive the container.
# What is in it is for its user alone, whoever --user says that is.
ENV STATE_DIRECTORY=/var/lib/llmproxy
VOLUME /var/lib/llmproxy
EXPOSE 8000
# There is no HEALTHCHECK, for which there would have to be a client in the image: ask
# /healthz and /readyz from outside.
ENTRYPOINT ["/usr/bin/llmproxy"]
CMD ["serve", "-config", "/etc/llmproxy/llmproxy.yaml"]
