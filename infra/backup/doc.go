// Package backup stands beside the stores: it copies what cannot be folded from anything else into a directory while
// nodes serve, and puts it back into empty stores.
//
// What is copied, in this order: answers that were promised to retries, the control topic, the events topic, the keyring,
// the request log. Of two things the later one in the story is copied earlier: an answer speaks of commits, a skip of
// records, a commit of data keys. So whatever is in the backup finds there what it speaks of, although nothing stands
// still meanwhile. Everything else is folded from the log.
//
// Each file is compressed, then sealed (filippo.io/age) under a key that is derived from the master key. The manifest
// names and authenticates the files, and is written last: a directory without one holds no backup.
package backup
