package projections

// This file tests whom a call takes along, and whom it does not, by a clock of its own.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// server answers questions with themselves, each call when the test lets it.
type server struct {
	calls chan call
}

type call struct {
	asked []int
	end   chan error
}

func (s *server) ask(ctx context.Context, asked []int) ([]answered[int], error) {
	made := call{asked, make(chan error)}
	s.calls <- made
	select {
	case err := <-made.end:
		if err != nil {
			return nil, err
		}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	answers := make([]answered[int], len(asked))
	for i, what := range asked {
		answers[i] = answered[int]{answer: what}
	}
	return answers, nil
}

// next is the call that has been made, or fails where none has.
func (s *server) next(t *testing.T, want ...int) call {
	t.Helper()
	synctest.Wait()
	select {
	case made := <-s.calls:
		if !slices.Equal(made.asked, want) {
			t.Errorf("asked %v, want %v", made.asked, want)
		}
		return made
	default:
		t.Fatalf("nothing was asked, want %v", want)
		panic("unreachable")
	}
}

func (s *server) none(t *testing.T) {
	t.Helper()
	synctest.Wait()
	if len(s.calls) > 0 {
		t.Errorf("asked %v at once", (<-s.calls).asked)
	}
}

// asks begins a question and returns where its outcome comes: nil where it was answered with itself.
func asks(ctx context.Context, t *testing.T, questions *together[int, int], what int) chan error {
	t.Helper()
	outcome := make(chan error, 1)
	go func() {
		got, err := questions.Ask(ctx, what)
		if err == nil && got != what {
			err = fmt.Errorf("%d was answered with %d", what, got)
		}
		outcome <- err
	}()
	synctest.Wait()
	return outcome
}

func TestWhomACallTakesAlong(t *testing.T) {
	begin := func() (*server, *together[int, int]) {
		s := &server{calls: make(chan call, 100)}
		return s, &together[int, int]{ask: s.ask}
	}
	check := func(t *testing.T, outcomes ...chan error) {
		t.Helper()
		for i, outcome := range outcomes {
			if err := <-outcome; err != nil {
				t.Errorf("outcome %d: %v", i, err)
			}
		}
	}

	t.Run("those who come during a call go in the next", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, questions := begin()
			first := asks(t.Context(), t, questions, 1)
			alone := s.next(t, 1)
			second, third := asks(t.Context(), t, questions, 2), asks(t.Context(), t, questions, 3)
			s.none(t)
			alone.end <- nil
			both := s.next(t, 2, 3)
			fourth := asks(t.Context(), t, questions, 4)
			s.none(t)
			both.end <- nil
			s.next(t, 4).end <- nil
			check(t, first, second, third, fourth)
			fifth := asks(t.Context(), t, questions, 5) // and again alone
			s.next(t, 5).end <- nil
			check(t, fifth)
		})
	})

	t.Run("a slow call holds up nobody else", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, questions := begin()
			slow := asks(t.Context(), t, questions, 1)
			held := s.next(t, 1)
			second, third := asks(t.Context(), t, questions, 2), asks(t.Context(), t, questions, 3)
			time.Sleep(togetherPatience)
			s.next(t, 2, 3).end <- nil
			check(t, second, third)
			fourth := asks(t.Context(), t, questions, 4)
			s.next(t, 4).end <- nil
			check(t, fourth)
			held.end <- nil
			check(t, slow)
			if questions.under != 0 || questions.punctual != 0 {
				t.Errorf("%d calls under way, %d of them punctual", questions.under, questions.punctual)
			}
		})
	})

	t.Run("slow calls are so many and no more, and whoever waited longest goes next", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, questions := begin()
			var outcomes []chan error
			var held []call
			for i := range togetherCalls {
				outcomes = append(outcomes, asks(t.Context(), t, questions, i))
				held = append(held, s.next(t, i))
				time.Sleep(togetherPatience)
			}
			var late []int
			for i := range togetherMost + 1 {
				late = append(late, 100+i)
				outcomes = append(outcomes, asks(t.Context(), t, questions, 100+i))
			}
			s.none(t)
			held[3].end <- nil
			next := s.next(t, late[:togetherMost]...)
			for _, call := range append(slices.Delete(held, 3, 4), next) {
				call.end <- nil
			}
			s.next(t, late[togetherMost:]...).end <- nil
			check(t, outcomes...)
		})
	})

	t.Run("a question that is refused takes nobody along", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, questions := begin()
			first := asks(t.Context(), t, questions, 1)
			alone := s.next(t, 1)
			bad, good := asks(t.Context(), t, questions, 2), asks(t.Context(), t, questions, 3)
			alone.end <- nil
			refusal := &pgconn.PgError{Code: "22021"}
			s.next(t, 2, 3).end <- refusal
			synctest.Wait()
			for range 2 {
				switch again := <-s.calls; {
				case slices.Equal(again.asked, []int{2}):
					again.end <- refusal
				case slices.Equal(again.asked, []int{3}):
					again.end <- nil
				default:
					t.Errorf("asked %v", again.asked)
				}
			}
			check(t, first, good)
			if err := <-bad; !errors.Is(err, refusal) {
				t.Errorf("got %v, want the refusal", err)
			}
		})
	})

	t.Run("a server that is away is away for all of a call, at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, questions := begin()
			first := asks(t.Context(), t, questions, 1)
			alone := s.next(t, 1)
			second, third := asks(t.Context(), t, questions, 2), asks(t.Context(), t, questions, 3)
			alone.end <- nil
			away := errors.New("connection refused")
			s.next(t, 2, 3).end <- away
			check(t, first)
			for _, outcome := range []chan error{second, third} {
				if err := <-outcome; !errors.Is(err, away) {
					t.Errorf("got %v", err)
				}
			}
			s.none(t)
		})
	})

	t.Run("one that leaves ends no call of others, and is not asked when its turn comes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, questions := begin()
			errGone := errors.New("gone")
			leaving, leave := context.WithCancelCause(t.Context())
			first := asks(t.Context(), t, questions, 1)
			alone := s.next(t, 1)
			second, third := asks(leaving, t, questions, 2), asks(t.Context(), t, questions, 3)
			alone.end <- nil
			both := s.next(t, 2, 3)
			fourth, fifth := asks(leaving, t, questions, 4), asks(t.Context(), t, questions, 5)
			leave(errGone)
			for _, outcome := range []chan error{second, fourth} {
				if err := <-outcome; !errors.Is(err, errGone) {
					t.Errorf("got %v", err)
				}
			}
			both.end <- nil
			s.next(t, 5).end <- nil
			check(t, first, third, fifth)
		})
	})

	t.Run("a call that never answers ends, and so does one of one when its asker leaves", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, questions := begin()
			leaving, leave := context.WithCancel(t.Context())
			first := asks(leaving, t, questions, 1)
			s.next(t, 1)
			second := asks(t.Context(), t, questions, 2)
			leave()
			if err := <-first; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			s.next(t, 2)
			if err := <-second; !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want the call's own time-out", err)
			}
		})
	})
}
