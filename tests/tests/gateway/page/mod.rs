//! The page, in a real Chromium.

mod browser;
mod closed;
mod fleet;
mod hostile;
mod lines;
mod site;
