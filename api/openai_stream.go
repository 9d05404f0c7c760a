package api

// This file stands where a turn goes out as OpenAI's chunks.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/nidohq/nido/commands"
)

// completionChunk is what OpenAI sends piece by piece.
type completionChunk struct {
	ID       string            `json:"id"`
	Object   string            `json:"object"`
	Created  int64             `json:"created"`
	Model    string            `json:"model"`
	Choices  []chunkChoice     `json:"choices"`
	Usage    *CompletionUsage  `json:"usage,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"` // in the first one
}

type chunkChoice struct {
	Index        int        `json:"index"`
	Delta        chunkDelta `json:"delta"`
	Logprobs     *string    `json:"logprobs"` // null
	FinishReason *string    `json:"finish_reason"`
}

type chunkDelta struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

// completionEvents is OpenAI's dialect.
type completionEvents struct {
	server *Server
	w      http.ResponseWriter
	r      *http.Request
	turn   followed
	in     CompletionRequest
	buffer bytes.Buffer
}

func newCompletionEvents(s *Server, w http.ResponseWriter, r *http.Request, turn followed, in CompletionRequest) *completionEvents {
	return &completionEvents{server: s, w: w, r: r, turn: turn, in: in}
}

func (c *completionEvents) begin() error {
	chunk := c.chunk(chunkDelta{Role: "assistant", Content: new(string)})
	chunk.Metadata = map[string]string{conversationOf: c.turn.conversation, "turn_id": c.turn.id}
	return c.send(chunk)
}

func (c *completionEvents) delta(text string, _ int) error {
	return c.send(c.chunk(chunkDelta{Content: &text}))
}

func (c *completionEvents) end(end commands.TurnEnd) error {
	if end.Err != nil {
		failed, err := c.append(c.server.failure(c.r, c.turn, end.Err))
		if err != nil {
			return err
		}
		exchangeOf(c.r).said = failed
	} else if err := c.complete(end.Reply); err != nil {
		return err
	}
	c.buffer.WriteString("data: [DONE]\n\n")
	return c.write()
}

func (c *completionEvents) complete(reply commands.Reply) error {
	last := c.chunk(chunkDelta{})
	last.Choices[0].FinishReason = new(string(finished(reply)))
	if _, err := c.append(last); err != nil {
		return err
	}
	if options := c.in.StreamOptions; options != nil && or(options.IncludeUsage, false) {
		used := c.chunk(chunkDelta{})
		usage := completionUsage(reply)
		used.Choices, used.Usage = []chunkChoice{}, &usage
		if _, err := c.append(used); err != nil {
			return err
		}
	}
	whole, err := encode(c.in.completed(c.turn, reply))
	exchangeOf(c.r).said = whole
	return err
}

func (c *completionEvents) chunk(delta chunkDelta) completionChunk {
	return completionChunk{
		ID: completionID(c.turn), Object: "chat.completion.chunk", Created: c.turn.started.Unix(), Model: c.in.model(c.turn),
		Choices: []chunkChoice{{Delta: delta}},
	}
}

func (c *completionEvents) send(chunk completionChunk) error {
	if _, err := c.append(chunk); err != nil {
		return err
	}
	return c.write()
}

func (c *completionEvents) append(data any) ([]byte, error) {
	encoded, err := encode(data)
	if err != nil {
		return nil, fmt.Errorf("encode a chunk: %w", err)
	}
	c.buffer.WriteString("data: ")
	c.buffer.Write(encoded)
	c.buffer.WriteString("\n\n")
	return encoded, nil
}

func (c *completionEvents) write() error {
	_, err := c.w.Write(c.buffer.Bytes())
	c.buffer.Reset()
	return err
}

// dialect is what the request's route speaks.
func (s *Server) dialect(w http.ResponseWriter, r *http.Request, turn followed) dialect {
	x := exchangeOf(r)
	var in CompletionRequest
	if x.op.openAI && json.Unmarshal(x.body, &in) == nil { // it has been checked
		return newCompletionEvents(s, w, r, turn, in)
	}
	return newTurnEvents(s, w, r, turn, true)
}
