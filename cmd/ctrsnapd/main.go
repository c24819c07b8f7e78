// Ctrsnapd is the daemon on a CI runner: it keeps goldens, hands out clones of
// them, and serves both over HTTP on a unix socket.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/cmd/internal/config"
	"github.com/ctrsnap/ctrsnap/cmd/internal/version"
)

func main() {
	// The heap is some ten MB: collecting it less often costs little memory, and
	// clones are not made beside a collection each time.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := command().Run(ctx, os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "ctrsnapd:", err)
		var hinted interface{ Hint() string }
		if errors.As(err, &hinted) {
			fmt.Fprintln(os.Stderr, "hint:", hinted.Hint())
		}
		os.Exit(1)
	}
}

func command() *cli.Command {
	return &cli.Command{
		Name:    "ctrsnapd",
		Usage:   "keep golden databases and hand out clones of them",
		Version: version.Version,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "configuration `FILE` (default " + config.DefaultPath + " if it exists)"},
			&cli.StringFlag{Name: "containerd", Usage: "use the containerd at `ADDRESS` in place of one in process"},
		},
		Action: func(ctx context.Context, c *cli.Command) error {
			if c.Args().Present() {
				return fmt.Errorf("unknown command %q: see ctrsnapd --help", c.Args().First())
			}
			return withConfig(c, asRoot(func(cfg config.Config) error { return serve(ctx, cfg) }))
		},
		Commands: []*cli.Command{
			{
				Name:  "teardown",
				Usage: "remove all clones, the network and the mounts of a daemon that is stopped; goldens stay",
				Action: func(ctx context.Context, c *cli.Command) error {
					return withConfig(c, asRoot(func(cfg config.Config) error { return tearDown(ctx, cfg) }))
				},
			},
			{
				Name:  "check",
				Usage: "say what a start would find, and change nothing; exit code 1 if something is wrong",
				Action: func(ctx context.Context, c *cli.Command) error {
					return withConfig(c, func(cfg config.Config) error { return check(ctx, cfg, os.Stdout) })
				},
			},
			{
				Name:  "config",
				Usage: "print the configuration in force, with comments",
				Action: func(_ context.Context, c *cli.Command) error {
					return withConfig(c, func(cfg config.Config) error {
						text, err := cfg.Print()
						if err == nil {
							_, err = os.Stdout.Write(text)
						}
						return err
					})
				},
			},
		},
	}
}

// asRoot does what only root can.
func asRoot(do func(config.Config) error) func(config.Config) error {
	return func(cfg config.Config) error {
		if os.Getuid() != 0 {
			return errors.New("needs root: it mounts filesystems and makes network namespaces")
		}
		return do(cfg)
	}
}

// withConfig loads the configuration that the flags name and sets up logging.
func withConfig(c *cli.Command, do func(config.Config) error) error {
	cfg, err := config.Load(c.String("config"))
	if err != nil {
		return err
	}
	if c.IsSet("containerd") {
		cfg.Containerd.Address = c.String("containerd")
	}
	opts := &slog.HandlerOptions{Level: cfg.Log.Level}
	var handler slog.Handler = slog.NewTextHandler(os.Stderr, opts)
	if cfg.Log.Format == "json" {
		handler = slog.NewJSONHandler(os.Stderr, opts)
	}
	slog.SetDefault(slog.New(handler))
	return do(cfg)
}
