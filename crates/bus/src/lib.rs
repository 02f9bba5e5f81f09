//! NATS: connect, serve commands, ask agents, publish and read events, spool them on disk.
