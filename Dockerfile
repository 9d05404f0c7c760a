# The production image: one static binary, no shell, not root. Engines are external here; see docker-compose.yml.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -tags noengines -trimpath -ldflags='-s -w' -o /nido ./cmd/nido

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /nido /nido
USER nonroot:nonroot
EXPOSE 8080
ENTRYPOINT ["/nido"]
CMD ["serve"]
