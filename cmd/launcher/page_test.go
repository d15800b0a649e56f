package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	cdpnet "github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"cutbank/internal/record"
)

// patience is how long a condition may take; a browser on a busy machine is slow.
const patience = 90 * time.Second

// browser is a headless Chromium that notes every error and every request beyond the page's own server.
type browser struct {
	t    *testing.T
	ctx  context.Context
	stop func() // ends it; then problems is complete

	mu       sync.Mutex
	problems []string
	quiet    bool // the launcher is away: failed requests are to be expected
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("chromium is not installed")
		}
		t.Skip("SKIPPED: chromium is not installed")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.WindowSize(1440, 900),
		chromedp.UserDataDir(t.TempDir()), chromedp.WSURLReadTimeout(patience))
	allocator, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(allocator)
	b := &browser{t: t, ctx: ctx}
	console, requests := chromedp.Console(ctx), chromedp.Events(ctx, cdpnet.RequestWillBeSent)
	var watching sync.WaitGroup
	b.stop = sync.OnceFunc(func() { cancel(); watching.Wait() })
	t.Cleanup(b.stop)
	watching.Go(func() { // also violations of the content security policy
		for m, err := range console {
			if err == nil && (m.IsException() || m.Type == "error" || m.Type == "warning") {
				b.problem(m.String())
			}
		}
	})
	watching.Go(func() {
		for e, err := range requests {
			if err == nil && !regexp.MustCompile(`^(http://127\.0\.0\.1:\d+/|data:|blob:|about:)`).MatchString(e.Request.URL) {
				b.problem("a request to " + e.Request.URL)
			}
		}
	})
	return b
}

func (b *browser) problem(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.quiet {
		b.problems = append(b.problems, text)
	}
}

func (b *browser) expectTrouble(yes bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.quiet = yes
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// wait waits until the expression is true in the page.
func (b *browser) wait(expression string) {
	b.t.Helper()
	var last bool
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if last, err = chromedp.Run(b.ctx, chromedp.Evaluate[bool](expression)); last && err == nil {
			return
		}
	}
	text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string]("document.body.innerText"))
	b.shot("failed")
	b.t.Fatalf("never true: %s (%v)\n%s", expression, err, text)
}

func (b *browser) click(selector string) {
	b.t.Helper()
	b.wait(fmt.Sprintf("document.querySelector(%q)?.click() === undefined && document.querySelector(%q) !== null", selector, selector))
}

// shot keeps a picture with the test's artifacts.
func (b *browser) shot(name string) {
	b.t.Helper()
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.t.ArtifactDir(), name+".png"), png, 0o600); err != nil {
		b.t.Error(err)
	}
}

// serve runs the launcher with a dashboard and returns its address and what ends it in order.
func (b *bank) serve(http string, more ...string) (address string, stop func()) {
	b.t.Helper()
	r := b.start(append(more, "--http", http, "--record", "--snapshot-interval", "1s", "--interval", "100ms", "--link-delay", "50ms-150ms")...)
	stop = sync.OnceFunc(func() {
		_ = r.cmd.Process.Signal(os.Interrupt)
		for range r.lines { // to their end
		}
		if err := r.cmd.Wait(); err != nil {
			b.t.Errorf("launcher: %v", err)
		}
	})
	b.t.Cleanup(stop)
	return r.address(), stop
}

type shownRecord struct {
	ID       int `json:"snapshot_id"`
	Transit  int `json:"in_transit"`
	Channels []struct {
		Src, Dst string
		Count    int
	} `json:"channels"`
}

// TestPage: the dashboard in a real browser, on a real bank.
func TestPage(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("SKIPPED: -short")
	}
	b := newBrowser(t)
	bank := newBank(t)
	address := fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1)[0])
	base, stop := bank.serve(address)

	b.do(chromedp.Navigate(base))
	b.wait(`document.querySelector(".equation .result b")?.textContent === "4000" && document.querySelector(".equation").ariaLabel.endsWith("as it must")`)
	b.wait(`document.querySelectorAll(".ring .node.ok").length === 4`)

	newest := `Number(document.querySelector(".story a")?.textContent.match(/\d+/))`
	b.do(chromedp.Evaluate[chromedp.Void]("window.before = " + newest))
	b.click(".tools button")
	b.wait(newest + " > window.before")

	b.killOne()
	b.shot("bank")
	b.cut(base)
	b.views()

	// The launcher goes away and comes back, with another token and another bank: seen as lost, then all works again,
	// and nothing of the bank before is left.
	b.do(chromedp.Evaluate[chromedp.Void](`import("/static/store.js").then((store) => { window.known = store.bank; window.before = known.last.bank_id })`))
	b.wait(`window.before !== undefined`)
	b.expectTrouble(true)
	stop()
	b.wait(`document.querySelector("main.lost") !== null && document.querySelector(".banners [role=alert]") !== null`)
	bank.serve(address, "--fresh")
	b.wait(`known.last.bank_id !== before && known.snapshots.every((r) => r.bank_id === known.last.bank_id) && known.last.snapshot_id === ` + newest)
	b.wait(`document.querySelector("main.live") !== null && document.querySelector(".equation .result b")?.textContent === "4000"`)
	b.expectTrouble(false)
	b.do(chromedp.Evaluate[chromedp.Void]("window.before = " + newest))
	b.click(".tools button")
	b.wait(`[...document.querySelectorAll(".notices .ok")].length > 0 && ` + newest + " > window.before")
	b.replay(bank)
	b.stop()
	for _, p := range b.problems {
		t.Error(p)
	}
}

// replay opens the record of the bank so far, and moves its time as far as it goes, and back.
func (b *browser) replay(bank *bank) {
	b.t.Helper()
	r := bank.replay(filepath.Join("data", "branches.txt-4000", record.EventsFile))
	defer func() { _ = r.end(syscall.SIGINT) }()
	b.do(chromedp.Navigate(r.address()))
	b.wait(`document.querySelector(".replay .slider input") !== null && document.querySelectorAll(".ring .node").length === 4`)
	// It plays by itself: stopped, it stays where it is moved to, however late somebody looks.
	b.wait(`((button) => button.textContent.trim() === "Play" || (button.click(), false))(document.querySelector(".panel.replay button"))`)
	for to, shown := range []string{`document.querySelector(".equation .result b") === null`, `document.querySelector(".equation .result b")?.textContent === "4000"`} {
		b.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`{
			const slider = document.querySelector(".replay .slider input");
			slider.value = %d * slider.max;
			for (const kind of ["input", "change"]) slider.dispatchEvent(new Event(kind, { bubbles: true }));
		}`, to)))
		b.wait(`document.querySelectorAll(".row").length === 4 && ` + shown)
	}
	b.shot("replay")
	b.do(chromedp.Navigate("about:blank")) // before its stream of events ends
}

// killOne kills a branch by its button, and waits until it is back.
func (b *browser) killOne() {
	b.t.Helper()
	b.click(`.row[data-branch=branch2] .quick button`)
	b.wait(`document.querySelector(".faults li.killed") !== null`)
	b.wait(`document.querySelector(".faults li.ready") !== null && document.querySelector('.row[data-branch=branch2] .mark').textContent === "ready"`)
	b.click(`.row[data-branch=branch2] .name`)
	b.wait(`[...document.querySelectorAll(".facts div")].some((d) => /^restarts[1-9]/.test(d.textContent))`) // more when it passed for hung meanwhile
}

// cut opens a snapshot by its deep link and compares what is drawn with what the record counted.
func (b *browser) cut(base string) {
	b.t.Helper()
	var list []shownRecord
	var at int
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		if err := json.Unmarshal(get(b.t, base+"/api/snapshots?limit=60"), &list); err != nil {
			b.t.Fatal(err)
		}
		if at = slices.IndexFunc(list, func(r shownRecord) bool { return r.Transit > 0 }); at >= 0 {
			break
		}
		if time.Now().After(end) {
			b.t.Fatal("no snapshot with money in transit")
		}
	}
	r := list[at]
	b.do(chromedp.Navigate("about:blank"), chromedp.Navigate(fmt.Sprintf("%s/#/snapshot/%d", base, r.ID)))
	b.wait(fmt.Sprintf(`document.querySelector("h2").textContent === "Snapshot %d" && document.querySelectorAll(".diagram .recorded").length === 4`, r.ID))
	drawn, err := chromedp.Run(b.ctx, chromedp.Evaluate[[]string](`[...document.querySelectorAll(".diagram .msg.crosses")].map((m) => m.dataset.key)`))
	if err != nil {
		b.t.Fatal(err)
	}
	perChannel := map[string]int{}
	for _, key := range drawn {
		perChannel[key[:strings.LastIndex(key, ">")]]++
	}
	counted := 0
	for _, c := range r.Channels {
		counted += c.Count
		if perChannel[c.Src+">"+c.Dst] != c.Count {
			b.t.Errorf("snapshot %d, %s->%s: %d arrows cross the cut, the record counts %d", r.ID, c.Src, c.Dst, perChannel[c.Src+">"+c.Dst], c.Count)
		}
	}
	if len(drawn) != counted || counted == 0 {
		b.t.Errorf("snapshot %d: %d arrows cross the cut, the record counts %d", r.ID, len(drawn), counted)
	}
	b.shot("cut")
}

// views opens the others, in dark colours and at the width of a phone too: nothing may stick out.
func (b *browser) views() {
	b.t.Helper()
	b.click(`nav a[href="#/snapshots"]`)
	b.wait(`document.querySelectorAll(".strip li").length > 1 && document.querySelectorAll(".wide tbody tr").length > 1`)
	b.shot("snapshots")
	b.do(chromedp.EmulateViewport(375, 812))
	for _, hash := range []string{"#/", "#/cut", "#/snapshots", "#/tour/2"} {
		b.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf("location.hash = %q", hash)))
		b.wait(`document.querySelector("main").childElementCount > 1 && document.documentElement.scrollWidth <= innerWidth`)
		b.shot("phone-" + strings.Trim(strings.ReplaceAll(hash[1:], "/", "-"), "-"))
	}
	b.do(chromedp.EmulateViewport(1440, 900), chromedp.Evaluate[chromedp.Void](`location.hash = "#/"`))
	for _, size := range []string{"20px", "15px"} { // larger, for a projector, and back
		b.click(`.tools [aria-pressed]`)
		b.wait(fmt.Sprintf(`getComputedStyle(document.documentElement).fontSize === %q && document.querySelectorAll(".row").length === 4`, size))
		b.wait(`document.documentElement.scrollWidth <= innerWidth`)
	}
	b.do(chromedp.Evaluate[chromedp.Void](`location.hash = "#/tour/5"`))
	b.click(`.tour .body button`)
	b.wait(`document.querySelectorAll(".steps .done").length === 4`)
	b.shot("tour")
}
