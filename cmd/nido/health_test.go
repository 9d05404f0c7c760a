// Beside the story: what a node says of itself.

package main

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAFoldStandsStillOnlyFromWhenSomethingWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &health{}
		ends, passed := map[int32]int64{0: 5, 1: 3}, map[int32]int64{0: 4, 1: 2}
		look := func(sentence string, waited time.Duration, behind int64, standing time.Duration) {
			t.Helper()
			if b, s := h.foldStands(ends, passed, waited); b != behind || s != standing {
				t.Errorf("%s: %d behind for %v, want %d for %v", sentence, b, s, behind, standing)
			}
		}
		look("nothing waits", 0, 0, 0)
		<-time.After(time.Minute)
		ends[0]++
		look("a record has just come, after a quiet minute", time.Millisecond, 1, time.Millisecond)
		<-time.After(3 * time.Second)
		look("it still waits", 3*time.Second, 1, 3*time.Second)
		passed[0], ends[0] = 5, 1000
		look("it is folded, and many others wait", 4*time.Second, 994, 0)
		<-time.After(2 * time.Second)
		passed[0] = 100
		look("some of them are folded", 6*time.Second, 899, 0)
		<-time.After(6 * time.Second)
		look("and no more", 12*time.Second, 899, 6*time.Second)
		delete(passed, 1)
		look("the tables have been replaced", time.Hour, 902, 0)
	})
}
