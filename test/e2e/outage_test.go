package e2e

// This file puts engines behind gates: a Kafka broker in the test's own process and proxies before Postgres and
// ClickHouse, each of which can be taken away, held up and given back while the nodes run.

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// breakable is an installation on engines of which each can fail by itself.
type breakable struct {
	engines              []string // for the nodes' environments
	behind               []string // the engines' own addresses
	kafka                *broker
	postgres, clickhouse *gate
	key                  string // the administrator's
}

func startInstallation(t *testing.T) *breakable {
	t.Helper()
	_, behind := startEngines(t, t.TempDir())
	in := &breakable{behind: behind, kafka: startBroker(t)}
	reach := func(name string) (*gate, string) {
		url := variable(t, behind, name)
		_, rest, _ := strings.Cut(url, "@")
		target, _, _ := strings.Cut(rest, "/")
		g := openGate(t, target)
		return g, name + "=" + strings.Replace(url, target, g.address, 1)
	}
	var postgres, clickhouse string
	in.postgres, postgres = reach("NIDO_POSTGRES_URL")
	in.clickhouse, clickhouse = reach("NIDO_CLICKHOUSE_URL")
	in.engines = []string{
		"NIDO_KAFKA_BROKERS=" + in.kafka.address, postgres, clickhouse, "NIDO_MASTER_KEY=" + variable(t, behind, "NIDO_MASTER_KEY"),
	}
	in.key = bootstrap(t, in.engines)
	return in
}

// broker is a Kafka broker that keeps its data and its address over a restart.
type broker struct {
	t       *testing.T
	dir     string
	address string
	cluster *kfake.Cluster
}

func startBroker(t *testing.T) *broker {
	t.Helper()
	b := &broker{t: t, dir: t.TempDir(), address: freeAddress(t)}
	b.start()
	t.Cleanup(func() { b.cluster.Close() })
	return b
}

func (b *broker) start() {
	b.t.Helper()
	listen := func(string, string) (net.Listener, error) { return net.Listen("tcp", b.address) }
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ListenFn(listen), kfake.ClusterID("nido"), kfake.DataDir(b.dir),
		kfake.SyncWrites(), kfake.BrokerConfigs(map[string]string{"log.retention.ms": "-1"}))
	if err != nil {
		b.t.Fatalf("start the broker: %v", err)
	}
	b.cluster = cluster
}

func (b *broker) stop() { b.cluster.Close() }

// killOn kills a process at the moment at which a batch arrives that holds all of these texts, which is then written or,
// with refused, is not.
func (b *broker) killOn(p *process, refused bool, texts ...string) {
	b.cluster.ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
		for _, topic := range request.(*kmsg.ProduceRequest).Topics {
			for _, partition := range topic.Partitions {
				missing := func(text string) bool { return !bytes.Contains(partition.Records, []byte(text)) }
				if slices.ContainsFunc(texts, missing) {
					continue
				}
				p.signal(syscall.SIGKILL)
				if refused {
					return nil, errors.New("the connection breaks"), true
				}
				b.cluster.DropControl()
			}
		}
		return nil, nil, false
	})
}

// forgetOffsets answers every commit of a group's offset as if it had been kept.
func (b *broker) forgetOffsets() {
	b.cluster.ControlKey(int16(kmsg.OffsetCommit), func(request kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		commit := request.(*kmsg.OffsetCommitRequest)
		response := commit.ResponseKind().(*kmsg.OffsetCommitResponse)
		for _, topic := range commit.Topics {
			answered := kmsg.NewOffsetCommitResponseTopic()
			answered.Topic, answered.TopicID = topic.Topic, topic.TopicID
			for _, partition := range topic.Partitions {
				kept := kmsg.NewOffsetCommitResponseTopicPartition()
				kept.Partition = partition.Partition
				answered.Partitions = append(answered.Partitions, kept)
			}
			response.Topics = append(response.Topics, answered)
		}
		return response, nil, true
	})
}

// gate is a proxy before an engine.
type gate struct {
	t       *testing.T
	address string
	target  string

	mu       sync.Mutex
	moving   *sync.Cond // wakes what was held
	held     bool
	listener net.Listener
	lives    int               // how often what was open has been left to itself
	open     map[net.Conn]bool // whether it leads to the engine
}

func openGate(t *testing.T, target string) *gate {
	t.Helper()
	g := &gate{t: t, address: freeAddress(t), target: target, open: map[net.Conn]bool{}}
	g.moving = sync.NewCond(&g.mu)
	g.giveBack()
	t.Cleanup(g.takeAway)
	return g
}

// takeAway breaks every connection and refuses new ones, as an engine that has died.
func (g *gate) takeAway() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listener != nil {
		g.listener.Close()
		g.listener = nil
	}
	for conn := range g.open {
		conn.Close()
	}
	clear(g.open)
	g.held = false
	g.moving.Broadcast()
}

// giveBack takes connections again, at the same address.
func (g *gate) giveBack() {
	g.t.Helper()
	listener, err := net.Listen("tcp", g.address)
	if err != nil {
		g.t.Fatal(err)
	}
	g.mu.Lock()
	g.listener = listener
	g.mu.Unlock()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go g.serve(conn)
		}
	}()
}

// hold keeps every byte to itself, as an engine that hangs, or lets them go.
func (g *gate) hold(held bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = held
	g.moving.Broadcast()
}

// strand ends what is open towards the engine and does not say so to the nodes, and passes what is opened from now on: as
// after a failover to another machine, of which the old connections hear nothing.
func (g *gate) strand() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lives++
	for conn, engine := range g.open {
		if engine {
			conn.Close()
		}
	}
}

func (g *gate) serve(from net.Conn) {
	to, err := net.Dial("tcp", g.target)
	if err != nil {
		from.Close()
		return
	}
	g.mu.Lock()
	away, life := g.listener == nil, g.lives
	if !away {
		g.open[from], g.open[to] = false, true
	}
	g.mu.Unlock()
	if away {
		from.Close()
		to.Close()
		return
	}
	var ways sync.WaitGroup
	ways.Go(func() { g.pass(to, from, life) })
	ways.Go(func() { g.pass(from, to, life) })
	ways.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, from)
	delete(g.open, to)
}

// pass moves bytes one way until either side ends, and then ends both.
func (g *gate) pass(to, from net.Conn, life int) {
	defer to.Close()
	defer from.Close()
	part := make([]byte, 64<<10)
	for {
		n, err := from.Read(part)
		g.mu.Lock()
		for g.held || g.lives != life && len(g.open) > 0 {
			g.moving.Wait()
		}
		g.mu.Unlock()
		if _, failed := to.Write(part[:n]); failed != nil || err != nil {
			return
		}
	}
}
