package lifecycle

import (
	"context"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifyEvery is how often the state is looked at where no watchdog asks for more.
const notifyEvery = time.Second

// Notify tells systemd, when that has started this process (Type=notify), that it has started, what
// it is doing, and, with WatchdogSec, that its loop is alive: a process that is stuck stops saying so
// and is replaced. It returns when ctx ends, at once without systemd.
func Notify(ctx context.Context, h *Health) {
	if sent, err := daemon.SdNotify(false, daemon.SdNotifyReady+"\nSTATUS="+statusText(h)); err != nil || !sent {
		return // nobody listens
	}
	every := notifyEvery
	if watchdog, err := daemon.SdWatchdogEnabled(false); err == nil && watchdog > 0 {
		every = min(every, watchdog/3)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
			return
		case <-tick.C:
		}
		text := "STATUS=" + statusText(h)
		if h.Alive() == nil {
			text = daemon.SdNotifyWatchdog + "\n" + text
		}
		_, _ = daemon.SdNotify(false, text)
	}
}

func statusText(h *Health) string {
	switch err := h.Alive(); {
	case err != nil:
		return err.Error()
	case h.ready.Load():
		return "ready: all links are up"
	}
	return "waiting to be opened, or for links"
}
