//! The chain of causes of an error.

use std::error::Error;
use std::iter;

/// The error and what caused it, outermost first.
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |error| (*error).source())
}

/// The causes below an error, outermost first, each as text.
#[must_use]
pub fn causes(error: &(dyn Error + 'static)) -> Vec<String> {
    chain(error).skip(1).map(ToString::to_string).collect()
}

/// The error and its causes on one line. A layer that repeats what the one above it has said already is left out.
#[must_use]
pub fn line(error: &(dyn Error + 'static)) -> String {
    let mut line = String::new();
    for layer in chain(error).map(ToString::to_string) {
        if line.is_empty() {
            line = layer;
        } else if !line.ends_with(&layer) {
            line.push_str(": ");
            line.push_str(&layer);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the key: it is gone")]
    struct Told(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("no login")]
    struct Outer(#[source] Told);

    #[test]
    fn each_layer_is_told_once() {
        let error = Outer(Told(io::Error::other("it is gone")));
        assert_eq!(line(&error), "no login: cannot read the key: it is gone");
        assert_eq!(causes(&error), ["cannot read the key: it is gone", "it is gone"]);
    }
}
