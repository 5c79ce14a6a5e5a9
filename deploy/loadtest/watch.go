package loadtest

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// watch reads what the servers consume.
type watch struct {
	pids    []int
	metrics []string
	client  http.Client
}

func newWatch(c Config) *watch {
	return &watch{pids: c.PIDs, metrics: c.Metrics, client: http.Client{Timeout: 2 * time.Second}}
}

// blind reports whether there is nothing to read.
func (w *watch) blind() bool { return len(w.pids)+len(w.metrics) == 0 }

// read adds up all servers. A server that is gone makes an error, and the others still count.
func (w *watch) read(ctx context.Context) (sum usage, err error) {
	for _, pid := range w.pids {
		u, e := processUsage(pid)
		if e != nil {
			err = e
		}
		sum = sum.plus(u)
	}
	for _, url := range w.metrics {
		u, e := w.scrape(ctx, url)
		if e != nil {
			err = e
		}
		sum = sum.plus(u)
	}
	return sum, err
}

// scrape reads the two figures that every Prometheus client exports about its process.
func (w *watch) scrape(ctx context.Context, url string) (usage, error) {
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	if strings.Count(url, "/") < 3 {
		url += "/metrics"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return usage{}, fmt.Errorf("read metrics: %w", err)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return usage{}, fmt.Errorf("read metrics: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return usage{}, fmt.Errorf("read metrics: %s answered %s", url, resp.Status)
	}
	var u usage
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		x, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "process_cpu_seconds_total":
			u.CPU = time.Duration(x * float64(time.Second))
		case "process_resident_memory_bytes":
			u.Memory = int64(x)
		}
	}
	return u, nil
}
