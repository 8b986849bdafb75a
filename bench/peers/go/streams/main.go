// Streamed answers as an experienced Go programmer would write them by hand for one process: net/http and franz-go.
// One record asks for a stream, all records of all streams come on one partition, and what one fetch has for a stream is
// written and flushed together. It does what the gateway does for a stream of JSON lines: it checks the number of each
// item and that each is JSON, ends the answer with the end of the service, and breaks it off if items are missing.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	idleTimeout   = 30 * time.Second
	fetchesBehind = 4096 // of one stream: beyond that its client is too slow, and its stream is broken off
)

type batch []*kgo.Record // what one fetch has for one stream

type gateway struct {
	client     *kgo.Client
	topic      string
	replyTopic []byte
	partition  []byte
	mu         sync.Mutex
	streams    map[string]chan batch
}

func (g *gateway) open() (string, chan batch) {
	var raw [16]byte
	rand.Read(raw[:])
	id, records := hex.EncodeToString(raw[:]), make(chan batch, fetchesBehind)
	g.mu.Lock()
	g.streams[id] = records
	g.mu.Unlock()
	return id, records
}

func (g *gateway) close(id string) {
	g.mu.Lock()
	delete(g.streams, id)
	g.mu.Unlock()
}

func (g *gateway) handler(route string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, records := g.open()
		defer g.close(id)
		if err := g.ask(id, route, r); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		g.pass(w, r, records)
	}
}

func (g *gateway) ask(id, route string, r *http.Request) error {
	now := time.Now().UnixMilli()
	headers := []kgo.RecordHeader{
		{Key: "correlation_id", Value: []byte(id)},
		{Key: "reply_to", Value: g.replyTopic},
		{Key: "reply_partition", Value: g.partition},
		{Key: "deadline", Value: strconv.AppendInt(nil, now+60_000, 10)},
		{Key: "http_method", Value: []byte("GET")},
		{Key: "http_path", Value: []byte(r.URL.Path)},
		{Key: "http_route", Value: []byte(route)},
		{Key: "http_param_count", Value: []byte(r.PathValue("count"))},
		{Key: "reply_kind", Value: []byte("stream")},
		{Key: "stream_until", Value: strconv.AppendInt(nil, now+600_000, 10)},
	}
	return g.client.ProduceSync(r.Context(), &kgo.Record{Topic: g.topic, Headers: headers}).FirstErr()
}

// pass writes the items to the client until the end of the stream.
func (g *gateway) pass(w http.ResponseWriter, r *http.Request, records chan batch) {
	flusher := w.(http.Flusher)
	timer := time.NewTimer(idleTimeout)
	defer timer.Stop()
	next := int64(0)
	for {
		select {
		case all, open := <-records:
			if !open {
				panic(http.ErrAbortHandler) // the client is too slow
			}
			for _, record := range all {
				ended, err := write(w, record, &next)
				if err != nil {
					log.Print(err)
					panic(http.ErrAbortHandler)
				}
				if ended {
					return
				}
			}
			flusher.Flush()
			timer.Reset(idleTimeout)
		case <-timer.C:
			panic(http.ErrAbortHandler)
		case <-r.Context().Done():
			return
		}
	}
}

var newline = []byte("\n")

// write checks one record and writes its items; true: it is the end of the stream.
func write(w http.ResponseWriter, record *kgo.Record, next *int64) (bool, error) {
	if beat := header(record, "stream_beat"); beat != nil {
		return false, nil
	}
	count := number(record, "stream_count", 1)
	if count > 0 && len(record.Value) > 0 {
		if seq := number(record, "stream_seq", -1); seq != *next {
			return false, errors.New("items are missing")
		}
		for rest := record.Value; rest != nil; {
			line, after, more := bytes.Cut(rest, newline)
			if !json.Valid(line) {
				return false, errors.New("an item is not JSON")
			}
			if rest = nil; more {
				rest = after
			}
			*next++
		}
		w.Write(record.Value)
		w.Write(newline)
	}
	switch end := header(record, "stream_end"); {
	case end == nil:
		return false, nil
	case string(end) != "ok" || number(record, "stream_total", -1) != *next:
		return false, errors.New("the service has failed")
	}
	return true, nil
}

func header(record *kgo.Record, name string) []byte {
	for i := range record.Headers {
		if record.Headers[i].Key == name {
			return record.Headers[i].Value
		}
	}
	return nil
}

func number(record *kgo.Record, name string, absent int64) int64 {
	raw := header(record, name)
	if raw == nil {
		return absent
	}
	value, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil {
		return -1
	}
	return value
}

// consume hands each stream what a fetch has for it.
func (g *gateway) consume(ctx context.Context) {
	together := map[string]batch{}
	for {
		fetches := g.client.PollFetches(ctx)
		if fetches.IsClientClosed() || ctx.Err() != nil {
			return
		}
		fetches.EachError(func(topic string, partition int32, err error) {
			log.Printf("fetch of %s [%d]: %v", topic, partition, err)
		})
		fetches.EachRecord(func(record *kgo.Record) {
			id := string(record.Key)
			together[id] = append(together[id], record)
		})
		for id, all := range together {
			g.hand(id, all)
		}
		clear(together)
	}
}

func (g *gateway) hand(id string, all batch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	records, found := g.streams[id]
	if !found {
		return
	}
	select {
	case records <- all:
	default:
		delete(g.streams, id)
		close(records)
	}
}

func setting(name string) string {
	value := os.Getenv(name)
	if value == "" {
		log.Fatalf("%s is not set", name)
	}
	return value
}

func main() {
	replyTopic, partition := setting("BENCH_REPLY_TOPIC"), setting("BENCH_REPLY_PARTITION")
	at, err := strconv.ParseInt(partition, 10, 32)
	if err != nil {
		log.Fatal(err)
	}
	g := &gateway{
		topic: setting("BENCH_REQUEST_TOPIC"), replyTopic: []byte(replyTopic), partition: []byte(partition),
		streams: map[string]chan batch{},
	}
	g.client, err = kgo.NewClient(
		kgo.SeedBrokers(setting("BENCH_BOOTSTRAP")),
		kgo.ProducerLinger(time.Millisecond),
		kgo.RequiredAcks(kgo.AllISRAcks()), // idempotent by default
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.FetchMaxWait(100*time.Millisecond),
		kgo.FetchMinBytes(1),
		kgo.DisableClientMetrics(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{replyTopic: {int32(at): kgo.NewOffset().AtEnd()}}),
	)
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go g.consume(ctx)
	mux := http.NewServeMux()
	for _, route := range []string{"/one/{count}", "/many/{count}"} {
		mux.HandleFunc("GET "+route, g.handler(route))
	}
	server := &http.Server{Addr: "127.0.0.1:" + setting("BENCH_PORT"), Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	g.client.Close()
}
