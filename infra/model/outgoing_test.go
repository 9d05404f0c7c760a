package model

// This file tests that a request's body is let go of once it has been answered.

import (
	"errors"
	"io"
	"testing"
)

func TestABodyIsReadAgainUntilItsRequestIsAnswered(t *testing.T) {
	sent := &outgoing{text: []byte("the whole conversation")}
	again, err := sent.again()
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []io.Reader{sent.reader(), again} {
		if text, err := io.ReadAll(body); err != nil || string(text) != "the whole conversation" {
			t.Errorf("%q, %v", text, err)
		}
		if body.(*outgoingReader).left != nil {
			t.Error("a body that has been sent is held")
		}
	}
	sent.drop()
	if _, err := sent.again(); !errors.Is(err, errReplied) || sent.text != nil {
		t.Errorf("a body is held behind the answer: %v", err)
	}
}
