//! The MySQL or MariaDB instance of this host: find it, ask it, start and stop it.
