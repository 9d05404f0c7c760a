# The production image: one static binary, no shell, not root. Engines are external here; see docker-compose.yml. There is no
# repository beside the source, so a build says which version it is: --build-arg VERSION="$(git describe --tags --always)".
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=
RUN CGO_ENABLED=0 go build -tags noengines -trimpath -ldflags="-s -w -X main.release=$VERSION" -o /nido ./cmd/nido

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /nido /nido
USER nonroot:nonroot
# Within a container only its own processes reach the loopback.
ENV NIDO_LISTEN=:8080
EXPOSE 8080
ENTRYPOINT ["/nido"]
CMD ["serve"]
