package api

// This file stands where a client that speaks OpenAI's API comes in: its request becomes a turn like any other. The
// agent is what it is; what such a client says about model, messages and limits is fitted into that.

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain/conversation"
	"github.com/nidohq/nido/projections"
)

// CompletionRequest is the part of OpenAI's request that is understood.
type CompletionRequest struct {
	Model         *string          `json:"model"`
	Messages      []CompletionText `json:"messages"`
	Stream        *bool            `json:"stream"`
	StreamOptions *struct {
		IncludeUsage *bool `json:"include_usage"`
	} `json:"stream_options"`
	Temperature         *float64          `json:"temperature"`
	MaxTokens           *int              `json:"max_tokens"`
	MaxCompletionTokens *int              `json:"max_completion_tokens"`
	Stop                json.RawMessage   `json:"stop"`
	User                *string           `json:"user"`
	Metadata            map[string]string `json:"metadata"`
}

// CompletionText is a message of such a request.
type CompletionText struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

// conversationOf is the metadata by which a client names a conversation.
const conversationOf = "conversation_id"

// onBusyOf is the metadata by which a client says what becomes of a message while another turn of its conversation is open.
const onBusyOf = "on_busy"

var conversationID = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,128}$`)

// ChatCompletionOnHost implements ServerInterface.
func (s *Server) ChatCompletionOnHost(w http.ResponseWriter, r *http.Request, _ ChatCompletionOnHostParams) {
	s.completion(w, r, func(CompletionRequest) (projections.Admission, error) {
		return projections.Admission{Slug: exchangeOf(r).slug}, nil
	})
}

// ChatCompletion implements ServerInterface.
func (s *Server) ChatCompletion(w http.ResponseWriter, r *http.Request, _ ChatCompletionParams) {
	s.completion(w, r, func(in CompletionRequest) (projections.Admission, error) {
		if or(in.Model, "") == "" {
			return projections.Admission{}, invalid("model", "model is missing.", "falta model.")
		}
		return named(*in.Model), nil
	})
}

// named is the agent that a client names as its model.
func named(model string) projections.Admission {
	if strings.HasPrefix(model, "agt_") {
		return projections.Admission{AgentID: model}
	}
	return projections.Admission{Slug: model}
}

func (s *Server) completion(w http.ResponseWriter, r *http.Request, whom func(CompletionRequest) (projections.Admission, error)) {
	x := exchangeOf(r)
	x.refused = true // until the turn is accepted
	in, err := decode[CompletionRequest](x)
	var turn commands.Turn
	var to projections.Admission
	if err == nil {
		turn, err = in.turn()
	}
	if err == nil {
		to, err = whom(in)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	turn.Continue = r.Header.Get(idempotencyHeader) != ""
	turn.Sole = !turn.Continue
	begun, err := s.begin(r, to, in.Metadata[conversationOf], turn, in.Metadata[onBusyOf] == "queue")
	switch {
	case err != nil:
		s.refuse(w, r, asModel(err, x))
	case turn.Streamed:
		s.stream(w, r, begun, 0, newCompletionEvents(s, w, r, begun, in))
	default:
		reply, err := s.reply(r, begun)
		s.answer(w, r, http.StatusOK, in.completed(begun, reply), err)
	}
}

// asModel tells a client that names agents as models which field was wrong.
func asModel(err error, x *exchange) error {
	p, ok := errors.AsType[*Problem](err)
	if ok && x.slug == "" && (p.Code == "host_not_found" || p.Code == "agent_not_found") {
		return &Problem{
			Code: "agent_not_found", Field: "model",
			English: "There is no agent with this slug or id. model names an agent here; GET /openai/v1/models lists them.",
			Spanish: "No existe un agente con este slug o id. Aquí model nombra un agente; GET /openai/v1/models los lista.",
		}
	}
	return err
}

// turn reads the messages: what the agent is told beside its own instructions, what was said, and what is said now.
func (in CompletionRequest) turn() (commands.Turn, error) {
	turn := commands.Turn{
		Streamed: or(in.Stream, false), Temperature: in.Temperature, MaxOutputTokens: in.MaxCompletionTokens, Metadata: map[string]string{},
	}
	if turn.MaxOutputTokens == nil {
		turn.MaxOutputTokens = in.MaxTokens
	}
	var instructions []string
	var said []commands.Message
	for i, message := range in.Messages {
		text, err := message.text(i)
		switch {
		case err != nil:
			return turn, err
		case message.Role == "system" || message.Role == "developer":
			instructions = append(instructions, text)
		case message.Role == "user" || message.Role == "assistant":
			said = append(said, commands.Message{Role: commands.Role(message.Role), Text: text})
		default:
			field := fmt.Sprintf("messages.%d.role", i)
			return turn, invalid(field, "Agents call no tools of the client, so there are no messages of tools.", "Los agentes no llaman herramientas del cliente, así que no hay mensajes de herramientas.")
		}
	}
	last := len(said) - 1
	if last < 0 || said[last].Role != commands.User || strings.TrimSpace(said[last].Text) == "" {
		return turn, invalid("messages", "The last message must be the user's, and say something.", "El último mensaje debe ser del usuario y decir algo.")
	}
	turn.Text, turn.Instructions = said[last].Text, strings.Join(instructions, "\n\n")
	for name, value := range in.Metadata {
		if name != conversationOf && name != onBusyOf {
			turn.Metadata[name] = value
		}
	}
	if user := or(in.User, ""); user != "" {
		turn.Metadata["user"] = user
	}
	named, isNamed := in.Metadata[conversationOf]
	if isNamed && !conversationID.MatchString(named) {
		words := patterns[conversationID.String()]
		return turn, invalid("metadata."+conversationOf, "metadata."+conversationOf+" "+words[0]+".", "metadata."+conversationOf+" "+words[1]+".")
	}
	if onBusy, said := in.Metadata[onBusyOf]; said && onBusy != "queue" && onBusy != "refuse" {
		return turn, invalid("metadata."+onBusyOf, "metadata.on_busy must be one of: queue, refuse.", "metadata.on_busy debe ser uno de: queue, refuse.")
	}
	if !isNamed || last > 0 {
		turn.Given = append([]commands.Message{}, said[:last]...)
	}
	return turn, in.stop(&turn)
}

func (in CompletionRequest) stop(turn *commands.Turn) error {
	if len(in.Stop) == 0 || string(in.Stop) == "null" {
		return nil
	}
	var one string
	if json.Unmarshal(in.Stop, &one) == nil {
		turn.Stop = []string{one}
	} else if err := json.Unmarshal(in.Stop, &turn.Stop); err != nil {
		return invalid("stop", "stop must be a text or a list of texts.", "stop debe ser un texto o una lista de textos.")
	}
	turn.Stop = slices.DeleteFunc(turn.Stop, func(text string) bool { return text == "" })
	return nil
}

// text reads a content: a text, or a list of parts that are texts. A message of the assistant without one called a tool.
func (m CompletionText) text(place int) (string, error) {
	if len(m.Content) == 0 || string(m.Content) == "null" {
		return "", nil
	}
	var plain string
	if json.Unmarshal(m.Content, &plain) == nil {
		return plain, nil
	}
	var parts []struct{ Type, Text string }
	if err := json.Unmarshal(m.Content, &parts); err != nil {
		return "", fmt.Errorf("read the content of a message: %w", err)
	}
	var text strings.Builder
	for i, part := range parts {
		if part.Type != "text" && part.Type != "input_text" && part.Type != "output_text" {
			field := fmt.Sprintf("messages.%d.content.%d.type", place, i)
			return "", invalid(field, "Agents read text only: parts of the type text.", "Los agentes solo leen texto: partes del tipo text.")
		}
		text.WriteString(part.Text)
	}
	return text.String(), nil
}

// completed is OpenAI's whole answer.
func (in CompletionRequest) completed(turn followed, reply commands.Reply) Completion {
	return Completion{
		ID: completionID(turn), Object: "chat.completion", Created: reply.CreatedAt.Unix(), Model: in.model(turn),
		Choices: []CompletionChoice{{FinishReason: finished(reply), Message: CompletionMessage{Role: "assistant", Content: reply.Text}}},
		Usage:   completionUsage(reply), Metadata: completionMetadata(turn, reply),
	}
}

// completionMetadata is what OpenAI's answer has no other place for.
func completionMetadata(turn followed, reply commands.Reply) map[string]string {
	metadata := map[string]string{
		conversationOf: turn.conversation, "turn_id": turn.id, "message_id": reply.MessageID, "model": reply.Model,
	}
	if reply.Usage.Estimated {
		metadata["usage"] = "estimated"
	}
	return metadata
}

// finished is why the reply ends. OpenAI's clients want to be told one, and a reply that is whole has at least stopped.
func finished(reply commands.Reply) FinishReason {
	return FinishReason(cmp.Or(reply.Finish, conversation.FinishStop))
}

func (in CompletionRequest) model(turn followed) string {
	if in.Model == nil || *in.Model == "" {
		return turn.agent
	}
	return *in.Model
}

func completionID(turn followed) string { return "chatcmpl-" + turn.id }

func completionUsage(reply commands.Reply) CompletionUsage {
	return CompletionUsage{
		PromptTokens: reply.Usage.InputTokens, CompletionTokens: reply.Usage.OutputTokens,
		TotalTokens: reply.Usage.InputTokens + reply.Usage.OutputTokens,
	}
}
