package domain

// This file stands beside the decision: what a decider answers when it does not answer with events.

import "fmt"

// Refusal is a rule's "no": a stable code, a sentence that the caller may read, and the field it is about, if any.
// It is the only error that a decider returns.
type Refusal struct {
	Code    string // stable, snake_case; listed in the API's error catalogue
	Message string // one English sentence for the caller
	Spanish string // the same in Spanish
	Field   string // the request's field that is at fault, or empty
}

func (r *Refusal) Error() string { return r.Code + ": " + r.Message }

// Refuse builds a refusal that is about no single field. Both sentences take the same arguments: a language that was left
// out would not compile.
func Refuse(code, english, spanish string, args ...any) *Refusal {
	return &Refusal{Code: code, Message: fmt.Sprintf(english, args...), Spanish: fmt.Sprintf(spanish, args...)}
}

// RefuseField builds a refusal that names the field at fault.
func RefuseField(field, code, english, spanish string, args ...any) *Refusal {
	refusal := Refuse(code, english, spanish, args...)
	refusal.Field = field
	return refusal
}
