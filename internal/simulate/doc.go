// Package simulate plays random exchanges of many clients with the broker in memory, in virtual time, while everything breaks
// that can break, and then checks the promises of the client. All of it is in the test files, and uses the public interface
// of the client only: see simulate_test.go.
package simulate
