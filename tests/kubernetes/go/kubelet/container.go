package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

type container struct {
	folder string
	user   uint32
}

// ExecInContainer runs a command to its end, on a terminal if one was asked for.
func (c *container) ExecInContainer(
	ctx context.Context, _, _, _ string, command []string, in io.Reader, out, err io.WriteCloser, tty bool,
	resize <-chan remotecommand.TerminalSize, _ time.Duration,
) error {
	if tty {
		return c.terminal(ctx, command, in, out, resize)
	}
	return c.command(ctx, command, in, out, err)
}

// AttachContainer is the container's own process: it says who came, and gives back what it reads until that ends.
func (c *container) AttachContainer(
	_ context.Context, name, _, _ string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize,
) error {
	if out == nil {
		return errors.New("nothing to attach to")
	}
	fmt.Fprintf(out, "attached to %s\n", name)
	if in != nil {
		_, _ = io.Copy(out, in)
	}
	return nil
}

// PortForward joins the stream with a port of this host.
func (c *container) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	var dialer net.Dialer
	there, err := dialer.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer there.Close()
	go func() {
		_, _ = io.Copy(there, stream)
		_ = there.(*net.TCPConn).CloseWrite()
	}()
	// As container runtimes do: it is over when the port has no more to say. Older clients wait for that word before they close.
	_, err = io.Copy(stream, there)
	return err
}

func (c *container) prepared(ctx context.Context, words []string) (*exec.Cmd, error) {
	if len(words) == 0 {
		return nil, errors.New("no command")
	}
	command := exec.CommandContext(ctx, words[0], words[1:]...)
	command.Dir = c.folder
	command.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + c.folder, "TERM=xterm", "LC_ALL=C.UTF-8"}
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.user, Gid: c.user}, Setsid: true}
	command.WaitDelay = time.Second
	return command, nil
}

func (c *container) command(ctx context.Context, words []string, in io.Reader, out, err io.WriteCloser) error {
	command, problem := c.prepared(ctx, words)
	if problem != nil {
		return problem
	}
	command.Stdout, command.Stderr = plain(out), plain(err)
	if in != nil {
		// A pipe of ours: Wait must not wait for a client that leaves its end open.
		pipe, problem := command.StdinPipe()
		if problem != nil {
			return problem
		}
		go func() {
			_, _ = io.Copy(pipe, in)
			_ = pipe.Close()
		}()
	}
	return ended(command.Run())
}

func (c *container) terminal(
	ctx context.Context, words []string, in io.Reader, out io.WriteCloser, resize <-chan remotecommand.TerminalSize,
) error {
	command, err := c.prepared(ctx, words)
	if err != nil {
		return err
	}
	ours, theirs, err := openTerminal()
	if err != nil {
		return err
	}
	defer ours.Close()
	command.Stdin, command.Stdout, command.Stderr = theirs, theirs, theirs
	command.SysProcAttr.Setctty = true
	if err := command.Start(); err != nil {
		_ = theirs.Close()
		return err
	}
	_ = theirs.Close()
	go func() {
		for size := range resize {
			_ = unix.IoctlSetWinsize(int(ours.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
		}
	}()
	if in != nil {
		go func() { _, _ = io.Copy(ours, in) }()
	}
	// Linux ends the reading of a terminal that nobody holds any more with EIO.
	_, _ = io.Copy(out, ours)
	return ended(command.Wait())
}

func openTerminal() (ours, theirs *os.File, err error) {
	if ours, err = os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	number, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err == nil {
		var unlocked int32
		if _, _, problem := unix.Syscall(unix.SYS_IOCTL, ours.Fd(), unix.TIOCSPTLCK, uintptr(unsafe.Pointer(&unlocked))); problem != 0 {
			err = problem
		}
	}
	if err == nil {
		theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		_ = ours.Close()
	}
	return ours, theirs, err
}

func plain(writer io.WriteCloser) io.Writer {
	if writer == nil {
		return io.Discard
	}
	return writer
}

// ended says a command's end as ServeExec understands it.
func ended(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return utilexec.CodeExitError{Err: exit, Code: exit.ExitCode()}
	}
	return err
}
