package domain

// This file stands at the decision's edge: the form in which personal text travels through events and read models.

// Sealed is text that only the keyring can open: AES-256-GCM under the data key named by Key. Destroying that key
// makes the text unreadable everywhere it was ever copied to.
type Sealed struct {
	Key  string `json:"key,omitempty"` // the data key's random id
	Data []byte `json:"data,omitempty"`
}

// IsZero reports whether there is nothing sealed, as opposed to a sealed empty text.
func (s Sealed) IsZero() bool { return s.Key == "" && len(s.Data) == 0 }
