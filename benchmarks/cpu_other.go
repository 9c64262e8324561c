//go:build !unix

package main

// cpuSeconds is not known here: the tables then have no CPU times.
func cpuSeconds() (user, sys float64) { return 0, 0 }
