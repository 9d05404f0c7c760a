package kafka

import (
	"bufio"
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/IBM/sarama"
)

func TestTheDocumentedExampleIsWhatNidoReadsAndWrites(t *testing.T) {
	page, err := os.ReadFile("../../docs/events/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(page), "## Example")
	block := func(language string) string {
		_, rest, _ := strings.Cut(example, "```"+language+"\n")
		text, _, _ := strings.Cut(rest, "```")
		return text
	}
	record := &sarama.ConsumerMessage{Topic: "nido.events", Key: []byte("agent-agt_k3j5"), Value: []byte(block("json"))}
	headers := map[string]string{}
	for lines := bufio.NewScanner(strings.NewReader(block("text"))); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		headers[name] = value
		record.Headers = append(record.Headers, &sarama.RecordHeader{Key: []byte(name), Value: []byte(value)})
	}
	recorded, err := Decode(fromRecord(record))
	if err != nil {
		t.Fatal(err)
	}
	msg, err := Encode(recorded.Commit)
	if err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, record.Value); err != nil {
		t.Fatal(err)
	}
	if compact.String() != string(msg.Payload) {
		t.Errorf("the page has\n%s\nwe write\n%s", compact.String(), msg.Payload)
	}
	if !maps.Equal(headers, msg.Metadata) {
		t.Errorf("the page has\n%v\nwe write\n%v", headers, msg.Metadata)
	}
}
