//! Keys: they need no bus.

use serde_json::json;

use crate::args::{KeyCmd, KeyUse};
use crate::error::Result;
use crate::keys;
use crate::output::Out;

pub(super) fn run(command: &KeyCmd, out: &Out) -> Result<()> {
    let (public, file) = match command {
        KeyCmd::Generate { file, .. } => (keys::generate(file)?, file),
        KeyCmd::Show { file } => (keys::read_seed(file)?.public_key(), file),
    };
    out.result(&json!({"public_key": public, "file": file}), |_| public.clone());
    if let KeyCmd::Generate { uses, .. } = command {
        out.note(&format!("the secret seed is in {} (mode 0600)", file.display()));
        let asked = |one| uses.is_empty() || uses.contains(&one);
        if asked(KeyUse::Login) {
            out.note(&format!(
                "to log in: an agent names the file in bus.credentials.nkey_file, a person with --nkey-file; the server's accounts \
                 get the public key by `bus config --agent HOST={public}` or `--controller NAME={public}`"
            ));
        }
        if asked(KeyUse::Signing) {
            out.note(
                "to sign: a person names the file with --sign-key; agents obey the public key once it stands in their auth.trusted",
            );
        }
        if !uses.contains(&KeyUse::Signing) {
            out.note("never put an agent's login key into auth.trusted: every trusted key commands agents");
        }
    }
    Ok(())
}
