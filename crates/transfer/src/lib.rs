//! The way of a seed's bytes from donor to recipient.
