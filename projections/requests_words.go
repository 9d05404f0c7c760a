package projections

// This file stands on both ends of log search: the words of a body when it is stored, and those of a question.

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// requestsLongestWord bounds a word in bytes; a longer one is known by its beginning. It keeps encoded files out of the index.
const requestsLongestWord = 64

// requestsScripts have no spaces between words, so each of their characters counts as one.
var requestsScripts = []*unicode.RangeTable{unicode.Han, unicode.Hiragana, unicode.Katakana}

// requestsWords are the distinct words of some texts, in lower case and sorted. A word is a run of letters and digits.
//
// Bodies are JSON as a rule, and JSON may write "atención" as "atenci\u00f3n" (Python's clients do) and a line's end as
// \n, glued to the next word. So escapes are undone first; in a text that is no JSON they are rare and harmless.
func requestsWords(texts ...string) []string {
	distinct := map[string]struct{}{}
	for _, text := range texts {
		requestsEachWord(requestsUnescape(text), func(word string) { distinct[word] = struct{}{} })
	}
	words := make([]string, 0, len(distinct))
	for word := range distinct {
		words = append(words, word)
	}
	slices.Sort(words)
	return words
}

func requestsEachWord(text string, yield func(word string)) {
	start := -1 // of the word that we are in
	end := func(at int) {
		if start >= 0 {
			yield(requestsWord(text[start:at]))
			start = -1
		}
	}
	for i, r := range text {
		switch {
		case r < utf8.RuneSelf && !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'):
			end(i)
		case r < utf8.RuneSelf:
			if start < 0 {
				start = i
			}
		case unicode.In(r, requestsScripts...):
			end(i)
			yield(string(r))
		case r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.IsMark(r)):
			if start < 0 {
				start = i
			}
		default:
			end(i)
		}
	}
	end(len(text))
}

// requestsWord is a word as the index knows it.
func requestsWord(word string) string {
	word = strings.ToLower(word)
	if len(word) <= requestsLongestWord {
		return word
	}
	cut := requestsLongestWord
	for !utf8.RuneStart(word[cut]) {
		cut--
	}
	return word[:cut]
}

// requestsUnescape undoes JSON's escapes.
func requestsUnescape(text string) string {
	at := strings.IndexByte(text, '\\')
	if at < 0 {
		return text
	}
	var plain strings.Builder
	plain.Grow(len(text))
	for ; at >= 0 && at+1 < len(text); at = strings.IndexByte(text, '\\') {
		plain.WriteString(text[:at])
		escape, rest := text[at+1], text[at+2:]
		switch escape {
		case 'n', 'r', 't', 'b', 'f':
			plain.WriteByte(' ')
		case 'u':
			r, used := requestsRune(rest)
			plain.WriteRune(r)
			rest = rest[used:]
		default:
			plain.WriteByte(escape)
		}
		text = rest
	}
	plain.WriteString(text)
	return plain.String()
}

// requestsRune reads what follows \u: four digits, or eight with another \u between them for what lies outside the basic
// plane. What is neither reads as a space.
func requestsRune(text string) (r rune, used int) {
	first, ok := requestsHex(text)
	if !ok {
		return ' ', 0
	}
	if !utf16.IsSurrogate(first) {
		return first, 4
	}
	if strings.HasPrefix(text[4:], `\u`) {
		if second, ok := requestsHex(text[6:]); ok && utf16.DecodeRune(first, second) != utf8.RuneError {
			return utf16.DecodeRune(first, second), 10
		}
	}
	return ' ', 4
}

func requestsHex(text string) (rune, bool) {
	if len(text) < 4 {
		return 0, false
	}
	value, err := strconv.ParseUint(text[:4], 16, 16)
	return rune(value), err == nil
}
