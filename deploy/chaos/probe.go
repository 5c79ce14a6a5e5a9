package chaos

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/parley-chat/parley/deploy/chaos/history"
)

const (
	// probeWithin bounds a probe: who does not answer by then is down, as far as an operator can tell.
	probeWithin = 900 * time.Millisecond
	// measureWithin bounds one of a phase, which does not ask how soon an answer comes.
	measureWithin = 30 * time.Second
)

// prober asks every role's operators' port what an operator would.
type prober struct {
	p   *plant
	out *history.Writer
	web http.Client
}

func newProber(p *plant, out *history.Writer) *prober {
	return &prober{p: p, out: out, web: http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
}

// probe asks all roles at once and returns those that are not ready.
func (p *prober) probe(ctx context.Context) (unready []string) {
	for _, e := range p.all(ctx, "") {
		if !e.Ready {
			unready = append(unready, e.Process)
		}
	}
	return unready
}

// measure asks all roles what they hold, for one of the phases that are compared, and returns what they say in the order of
// their names, and those that did not.
func (p *prober) measure(ctx context.Context, phase string) (all []history.Event, silent []string) {
	all = p.all(ctx, phase)
	for _, e := range all {
		if e.Goroutines == 0 {
			silent = append(silent, e.Process)
		}
	}
	return all, silent
}

func (p *prober) all(ctx context.Context, phase string) []history.Event {
	names := p.p.roleNames()
	events := make([]history.Event, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { events[i] = p.one(ctx, name, phase) })
	}
	wg.Wait()
	for _, e := range events {
		p.out.Add(e)
	}
	return events
}

func (p *prober) one(ctx context.Context, name, phase string) history.Event {
	e := history.Event{Kind: history.Probe, At: history.SharedNow(), Process: name, Phase: phase}
	within := probeWithin
	if phase != "" {
		within = measureWithin
	}
	status, err := p.get(ctx, within, p.p.ops[name]+"/readyz", nil)
	e.Up, e.Ready = err == nil, status == http.StatusOK
	if !e.Up {
		return e
	}
	e.Metrics = make(map[string]float64)
	_, _ = p.get(ctx, within, p.p.ops[name]+"/metrics", func(line string) { // what is missing shows as missing
		series, value, ok := strings.Cut(line, " ")
		server := ""
		if i := strings.IndexByte(series, '{'); i >= 0 {
			end := strings.LastIndexByte(line, '}')
			series, value, ok = line[:i], strings.TrimSpace(line[end+1:]), end > i
			if _, name, has := strings.Cut(line, `server="`); has { // which one counts: see storeSilent
				name, _, _ = strings.Cut(name, `"`)
				server = `{server="` + name + `"}`
			}
		}
		if strings.HasPrefix(series, "#") || !ok || strings.HasSuffix(series, "_bucket") {
			return
		}
		v, err := strconv.ParseFloat(value, 64)
		switch {
		case err != nil:
		case series == "go_goroutines":
			e.Goroutines = int(v)
		case series == "process_resident_memory_bytes":
			e.Memory = int64(v)
		case strings.HasPrefix(series, "parley_"):
			e.Metrics[series+server] += v
		}
	})
	if pid, ok := p.p.procs[name].Pid(); ok {
		// Clients choose between the edges anew at every reconnect: what counts is what an edge holds beside them.
		e.Descriptors = openFiles(pid) - int(e.Metrics["parley_edge_connections"])
		if phase != "" {
			if bytes := pss(pid); bytes > 0 {
				e.Memory = bytes
			}
		}
	}
	return e
}

func (p *prober) get(ctx context.Context, within time.Duration, at string, line func(string)) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at, nil)
	if err != nil {
		return 0, fmt.Errorf("probe %s: %w", at, err)
	}
	resp, err := p.web.Do(req)
	if err != nil {
		return 0, fmt.Errorf("probe %s: %w", at, err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if line != nil {
			line(lines.Text())
		}
	}
	return resp.StatusCode, lines.Err()
}

// pss is a process's share of the memory, in bytes; 0 where that is not told.
func pss(pid int) int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10
		}
	}
	return 0
}

// ready waits until every role is ready and returns those that are not.
func (p *prober) ready(ctx context.Context, within time.Duration) []string {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		unready := p.probe(ctx)
		if len(unready) == 0 || !wait(ctx, 500*time.Millisecond) {
			return unready
		}
	}
}
