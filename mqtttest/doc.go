// Package mqtttest has what tests of MQTT clients, and of programs that use one, need from the other end: a broker in memory
// and a scripted server. Both run in a testing/synctest bubble, in virtual time, as well as outside of one. The package does
// not know any client: it works with every client that takes a dialer.
//
// A [Broker] speaks MQTT 5.0 and 3.1.1. It tests a program as a whole, and what the program does when things go wrong:
//
//	broker := mqtttest.NewBroker(t)
//	client, err := mqtt.NewClient(ctx, "mqtt://test", mqtt.WithDialer(broker.DialContext), mqtt.WithClientID("billing"))
//	…
//	broker.Publish(mqtttest.Message{Topic: "orders/1", Payload: []byte("2 owls"), QoS: 1})
//	bills := broker.Await(ctx, "bills/+", 1)
//	broker.Cut("billing")                                                      // pull the plug
//	broker.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Drop: true}) // lose acknowledgements
//
// [Broker.Unacknowledged] tells what a client has received and not acknowledged: a service that acknowledges a message only
// after its work is done has it there during the work.
//
// What can go wrong:
//   - connections break: [Broker.Cut], [Broker.HalfOpen], [Broker.Kick], [Broker.Offline], and [Fault] with Cut, after a
//     packet or within;
//   - connecting fails: [Broker.Refuse], [Broker.HangUp], [Authorize], [Authentication], [Upgrade];
//   - packets are lost, late, held back or refused: [Broker.Fault];
//   - packets are changed, or answered by the test: [Broker.Intercept] and [Broker.Send];
//   - the server forgets, or comes back with other limits: [Broker.Forget], [Broker.Reconfigure];
//   - the connection is slow, and packets come in pieces or together: [Bandwidth], [Broker.Throttle], [Fragment], [Coalesce];
//   - certificates are wrong: [ServerTLS], [Broker.ClientTLS], [NewAuthority].
//
// The broker holds clients to the specification: a packet that a conformant client would not send fails the test, with the
// number of the statement, and ends the connection. [Tolerate] makes exceptions, and [Broker.Restarted] says that a client
// begins again without its memory of the session.
//
// Programs that speak TLS or WebSocket, or that cannot be given a dialer, reach it by [Broker.ListenTLS], [Broker.ListenWS]
// and their like; [Broker.DialTLS] and [Broker.DialWS] are the same in memory.
//
// A [Server] leaves every packet to the test, also wrong ones. It is for tests of a client library itself.
package mqtttest
