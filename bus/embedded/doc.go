// Package embedded runs the brokers inside this process, for `parley dev` and the tests: nats-server, miniredis and
// kfake. Under the build tag lean it is empty, and none of the servers is linked in.
package embedded
