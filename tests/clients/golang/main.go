// Go's net/http: HTTP/1.1 and HTTP/2, the latter without TLS by prior knowledge; one transport for each stream.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const slowEach = 4 // the service takes two seconds for these: they wait while the gateway reloads or ends

var methods = []string{"POST", "PUT"} // libraries repeat an idempotent one by themselves

type told struct {
	Client  string `json:"client"`
	Body    string `json:"body"`
	Status  int    `json:"status"`
	Version string `json:"version"`
	Answer  string `json:"answer"`
	Outcome string `json:"outcome"`
	Error   string `json:"error"`
}

var (
	lines  = json.NewEncoder(os.Stdout)
	writer sync.Mutex
)

func tell(line told) {
	writer.Lock()
	defer writer.Unlock()
	if err := lines.Encode(line); err != nil {
		panic(err)
	}
}

// piped gives the body without its length.
func piped(body string) io.Reader {
	reader, writer := io.Pipe()
	go func() {
		_, err := io.WriteString(writer, body)
		writer.CloseWithError(err)
	}()
	return reader
}

func ask(client *http.Client, name, method, url, body string, streams bool) told {
	line := told{Client: name, Body: body}
	var content io.Reader = strings.NewReader(body)
	if streams {
		content = piped(body)
	}
	request, err := http.NewRequest(method, url, content)
	if err != nil {
		panic(err)
	}
	answer, err := client.Do(request)
	if err != nil {
		line.Error = err.Error()
		return line
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		line.Error = err.Error()
		return line
	}
	line.Status, line.Answer, line.Outcome = answer.StatusCode, string(text), answer.Header.Get("fastgw-outcome")
	line.Version = fmt.Sprintf("%d", answer.ProtoMajor)
	if answer.ProtoMajor == 1 {
		line.Version = fmt.Sprintf("1.%d", answer.ProtoMinor)
	}
	return line
}

func loop(ended context.Context, client *http.Client, name, url string, index int, pause time.Duration) {
	for number := 0; ended.Err() == nil; number++ {
		manner := "fast"
		if number%slowEach == slowEach-1 {
			manner = "slow"
		}
		body := fmt.Sprintf("%s %s %d %d", manner, name, index, number)
		tell(ask(client, name, methods[number%len(methods)], url, body, number%4 >= 2))
		select {
		case <-ended.Done():
		case <-time.After(pause):
		}
	}
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	authority, err := os.ReadFile(os.Args[1])
	if err != nil {
		panic(err)
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(authority)
	connections, pause := number(os.Args[2]), time.Duration(number(os.Args[3]))*time.Millisecond
	ended, end := context.WithCancel(context.Background())
	var loops sync.WaitGroup
	for _, mode := range os.Args[4:] {
		parts := strings.SplitN(mode, "=", 3)
		name, version, url := parts[0], parts[1], parts[2]
		protocols := new(http.Protocols)
		protocols.SetHTTP1(version == "1")
		protocols.SetHTTP2(version == "2")
		protocols.SetUnencryptedHTTP2(version == "2")
		client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
			Protocols:           protocols,
			MaxIdleConnsPerHost: connections,
			TLSClientConfig:     &tls.Config{RootCAs: trusted},
		}}
		for index := range connections {
			loops.Add(1)
			go func() {
				defer loops.Done()
				loop(ended, client, name, url, index, pause)
			}()
		}
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	end()
	loops.Wait()
}
