package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
)

// profiles are files for what is profiled of the client, with the names that go test has; "" is not profiled.
type profiles struct {
	CPU, Memory, Mutex, Block string
}

func (p *profiles) flags(set *flag.FlagSet) {
	set.StringVar(&p.CPU, "cpuprofile", "", "write a CPU profile of the client to this `file` (of the last run)")
	set.StringVar(&p.Memory, "memprofile", "", "write what the client has allocated, and holds at the end, to this `file`")
	set.StringVar(&p.Mutex, "mutexprofile", "", "write a profile of contended mutexes to this `file`")
	set.StringVar(&p.Block, "blockprofile", "", "write a profile of what goroutines waited for to this `file`")
}

// start begins what is asked for; stop writes it.
func (p *profiles) start() (stop func() error, err error) {
	if p.Memory != "" {
		runtime.MemProfileRate = 1
	}
	if p.Mutex != "" {
		runtime.SetMutexProfileFraction(1)
	}
	if p.Block != "" {
		runtime.SetBlockProfileRate(1)
	}
	if p.CPU == "" {
		return p.write, nil
	}
	f, err := os.Create(p.CPU)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		f.Close()
		return nil, err
	}
	return func() error {
		pprof.StopCPUProfile()
		if err := f.Close(); err != nil {
			return err
		}
		return p.write()
	}, nil
}

func (p *profiles) write() error {
	for name, file := range map[string]string{"allocs": p.Memory, "mutex": p.Mutex, "block": p.Block} {
		if file == "" {
			continue
		}
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		err = pprof.Lookup(name).WriteTo(f, 0)
		if closed := f.Close(); err == nil {
			err = closed
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return nil
}
