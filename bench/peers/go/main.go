// An HTTP to Kafka request/reply gateway as an experienced Go programmer would write it by hand for one process:
// net/http and franz-go, requests without key (so that whole batches go to one partition), all replies on one
// partition that the request names in a header, a sharded map of waiting requests.
package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	replyTimeout = 5 * time.Second
	parkTimeout  = 10 * time.Minute // for the benchmark's parked requests
	maxBody      = 1 << 20
	shardCount   = 64
	idSize       = 16 // bytes: 8 random for this process, 8 counted
)

type outcome struct {
	body []byte
	err  error
}

type shard struct {
	mu      sync.Mutex
	waiting map[uint64]chan outcome
	_       [40]byte // a cache line each
}

type gateway struct {
	client     *kgo.Client
	prefix     [8]byte
	last       atomic.Uint64
	shards     [shardCount]shard
	channels   sync.Pool
	replyTopic []byte
	partition  []byte
}

func newGateway(replyTopic string, partition int32) *gateway {
	g := &gateway{replyTopic: []byte(replyTopic), partition: strconv.AppendInt(nil, int64(partition), 10)}
	if _, err := rand.Read(g.prefix[:]); err != nil {
		log.Fatal(err)
	}
	for i := range g.shards {
		g.shards[i].waiting = make(map[uint64]chan outcome)
	}
	g.channels.New = func() any { return make(chan outcome, 1) }
	return g
}

// park makes a waiting request known before it is sent, so that no reply can come too early.
func (g *gateway) park() (uint64, chan outcome) {
	number := g.last.Add(1)
	answer := g.channels.Get().(chan outcome)
	s := &g.shards[number%shardCount]
	s.mu.Lock()
	s.waiting[number] = answer
	s.mu.Unlock()
	return number, answer
}

// take removes a waiting request; whoever gets true is the only one to answer it.
func (g *gateway) take(number uint64) (chan outcome, bool) {
	s := &g.shards[number%shardCount]
	s.mu.Lock()
	answer, found := s.waiting[number]
	delete(s.waiting, number)
	s.mu.Unlock()
	return answer, found
}

func (g *gateway) resolve(number uint64, result outcome) {
	if answer, found := g.take(number); found {
		answer <- result
	}
}

func (g *gateway) id(number uint64) []byte {
	var raw [idSize]byte
	copy(raw[:8], g.prefix[:])
	binary.BigEndian.PutUint64(raw[8:], number)
	return hex.AppendEncode(make([]byte, 0, 2*idSize), raw[:])
}

func (g *gateway) number(id []byte) (uint64, bool) {
	var raw [idSize]byte
	if len(id) != 2*idSize {
		return 0, false
	}
	if _, err := hex.Decode(raw[:], id); err != nil || [8]byte(raw[:8]) != g.prefix {
		return 0, false
	}
	return binary.BigEndian.Uint64(raw[8:]), true
}

func (g *gateway) handler(topic string, timeout time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := readBody(w, r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		number, answer := g.park()
		record := &kgo.Record{Topic: topic, Value: body, Headers: []kgo.RecordHeader{
			{Key: "correlation_id", Value: g.id(number)},
			{Key: "reply_to", Value: g.replyTopic},
			{Key: "reply_partition", Value: g.partition},
			{Key: "content-type", Value: []byte(r.Header.Get("Content-Type"))},
		}}
		g.client.Produce(context.Background(), record, func(_ *kgo.Record, err error) {
			if err != nil {
				g.resolve(number, outcome{err: err})
			}
		})
		g.wait(w, r, number, answer, timeout)
	}
}

func (g *gateway) wait(w http.ResponseWriter, r *http.Request, number uint64, answer chan outcome, timeout time.Duration) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case result := <-answer:
		g.channels.Put(answer)
		respond(w, result)
		return
	case <-timer.C:
	case <-r.Context().Done():
	}
	if _, ours := g.take(number); ours {
		g.channels.Put(answer)
		http.Error(w, "no reply in time", http.StatusGatewayTimeout)
		return
	}
	result := <-answer // somebody resolved it in this very moment
	g.channels.Put(answer)
	respond(w, result)
}

func respond(w http.ResponseWriter, result outcome) {
	if result.err != nil {
		http.Error(w, result.err.Error(), http.StatusBadGateway)
		return
	}
	h := w.Header()
	h["Content-Type"] = jsonType
	h["Content-Length"] = []string{strconv.Itoa(len(result.body))}
	w.Write(result.body)
}

var jsonType = []string{"application/json"}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > maxBody {
		return nil, errors.New("body too large")
	}
	if r.ContentLength >= 0 {
		body := make([]byte, r.ContentLength)
		_, err := io.ReadFull(r.Body, body)
		return body, err
	}
	return io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
}

func (g *gateway) consume(ctx context.Context) {
	for {
		fetches := g.client.PollFetches(ctx)
		if fetches.IsClientClosed() || ctx.Err() != nil {
			return
		}
		fetches.EachError(func(topic string, partition int32, err error) {
			log.Printf("fetch of %s [%d]: %v", topic, partition, err)
		})
		fetches.EachRecord(func(record *kgo.Record) {
			if number, ok := g.number(correlationID(record)); ok {
				g.resolve(number, outcome{body: record.Value})
			}
		})
	}
}

func correlationID(record *kgo.Record) []byte {
	for i := range record.Headers {
		if record.Headers[i].Key == "correlation_id" {
			return record.Headers[i].Value
		}
	}
	return record.Key
}

func noop(w http.ResponseWriter, r *http.Request) {
	body, err := readBody(w, r)
	respond(w, outcome{body, err})
}

func setting(name string) string {
	value := os.Getenv(name)
	if value == "" {
		log.Fatalf("%s is not set", name)
	}
	return value
}

func main() {
	replyTopic := setting("BENCH_REPLY_TOPIC")
	partition, err := strconv.ParseInt(setting("BENCH_REPLY_PARTITION"), 10, 32)
	if err != nil {
		log.Fatal(err)
	}
	g := newGateway(replyTopic, int32(partition))
	g.client, err = kgo.NewClient(
		kgo.SeedBrokers(setting("BENCH_BOOTSTRAP")),
		kgo.ProducerLinger(time.Millisecond),
		kgo.RequiredAcks(kgo.AllISRAcks()), // idempotent by default
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.MaxBufferedRecords(200_000),
		kgo.RecordDeliveryTimeout(replyTimeout),
		kgo.FetchMaxWait(100*time.Millisecond),
		kgo.FetchMinBytes(1),
		kgo.DisableClientMetrics(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
			replyTopic: {int32(partition): kgo.NewOffset().AtEnd()},
		}),
	)
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go g.consume(ctx)

	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders", g.handler(setting("BENCH_REQUEST_TOPIC"), replyTimeout))
	mux.HandleFunc("POST /park", g.handler(setting("BENCH_PARK_TOPIC"), parkTimeout))
	mux.HandleFunc("POST /noop", noop)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Addr: "127.0.0.1:" + setting("BENCH_PORT"), Handler: mux, Protocols: protocols,
		ReadHeaderTimeout: 10 * time.Second,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 4096},
	}
	go func() {
		<-ctx.Done()
		limited, cancel := context.WithTimeout(context.Background(), replyTimeout)
		defer cancel()
		server.Shutdown(limited)
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	g.client.Close()
}
