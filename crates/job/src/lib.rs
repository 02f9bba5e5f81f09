//! A journalled step engine that knows no domain.
