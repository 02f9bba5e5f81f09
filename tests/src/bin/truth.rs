//! Writes `docs/truth.md` once every cell of the suite has passed; with `forget` it makes the suite begin with no record.

use e2e::truth::page;

fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).is_some_and(|word| word == "forget") {
        return page::forget();
    }
    println!("wrote docs/truth.md from {} cells", page::write()?);
    Ok(())
}
