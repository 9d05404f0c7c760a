package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// readyCommand asks a node on this machine whether it can serve chat: the health check of images without a shell.
type readyCommand struct {
	Listen string `help:"Where the node serves HTTP." default:"127.0.0.1:8080" env:"NIDO_LISTEN" placeholder:"ADDR"`
}

// Run implements kong's command.
func (c readyCommand) Run(ctx context.Context) error {
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("read --listen: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return err
	}
	// Without the environment's proxies: this is about the node here, whatever its address.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask the node: %w", err)
	}
	defer response.Body.Close()
	says, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	fmt.Printf("%s\n", says)
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: status %d", response.StatusCode)
	}
	return nil
}
