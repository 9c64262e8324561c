package mqtttest

// Restarted tells the broker that the program with this client identifier has ended, and begins again without its memory of
// the session: the client that comes next is not blamed if it does not finish what the last one had begun. Call it between
// the two.
func (b *Broker) Restarted(clientID string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.sessions[clientID]; s != nil {
		s.ledger = newLedger()
	}
}
