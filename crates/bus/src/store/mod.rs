//! Bytes between two agents that cannot reach one another, through a JetStream object store.
//!
//! A [`Giver`] on the donor and a [`Taker`] on the recipient carry TCP connections: who connects to the taker's local port
//! speaks with what listens at the giver's. Towards the recipient the bytes travel as objects of a bucket in the layout of ADR-20,
//! segments named in sequence, so that the usual tools can look at them; towards the donor, where there are only questions, as
//! requests. What is carried proves and encrypts itself (a seed: TLS 1.3 from agent to agent), so the bus, its administrators and
//! its disk see sealed bytes only, and this module needs to know nothing of seeds.
//!
//! Many chunks are on their way to the server at once, and the recipient takes them while the donor still sends. It tells how far it
//! has come, and the donor removes that much: what lies on the server stays within a window however much is moved. `max_bytes`
//! with discard-new is only the backstop, `max_age` removes the data when both ends are gone.
//!
//! Nothing here is resumed. Whatever is lost (the server killed, the bucket purged, an agent gone) shows as a gap or a missing
//! answer and breaks the connections that are carried; who connected asks again for what it does not have yet.
//!
//! A bucket belongs to its donor, and its consumer is named after the recipient: so an agent's permissions, which know no
//! seeds, can be exactly its own bucket and the consumers in its own name. Streams and consumers are made by a controller,
//! or by the donor where its permissions allow it.

mod bucket;
mod call;
mod channel;
mod giver;
mod ledger;
mod taker;

pub use bucket::{Way, bucket_of, buckets, consumer_of, make_bucket, remove_bucket, stream_of};
pub use giver::Giver;
pub use taker::Taker;

/// Bytes of one message. The server's default limit is 1 MiB.
pub(crate) const CHUNK_BYTES: usize = 512 * 1024;
/// A segment is complete with this many bytes, or when nothing more comes for a moment.
pub(crate) const SEGMENT_BYTES: u64 = 16 << 20;
/// Unacknowledged at most: servers refuse what is beyond their queue for a stream.
pub(crate) const IN_FLIGHT_BYTES: usize = 16 << 20;
/// What the server may hold of one bucket unless the caller says otherwise.
pub const WINDOW_BYTES: u64 = 64 << 20;
/// The smallest window that still moves.
pub const WINDOW_BYTES_MIN: u64 = 4 << 20;

/// On a chunk: the number of its connection, and how many bytes of that came before it.
const HEADER_AT: &str = "Orch-At";
/// On the last object of a connection: the connection's number.
const HEADER_END: &str = "Orch-End";
