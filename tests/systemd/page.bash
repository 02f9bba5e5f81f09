# shellcheck shell=bash
# The pages as they are read by a person: their commands are taken from the page itself, so that a page which does not work
# fails here.

# page_commands PAGE HEADING: the commands of its console blocks, in order, without the prompt.
page_commands() {
  awk -v heading="$2" '
    /^#+ /                      { here = (index($0, heading) > 0) }
    here && /^ *```console/     { console = 1; next }
    /^ *```/                    { console = 0 }
    here && console && /^ *\$ / { sub(/^ *\$ /, ""); print }' "$1"
}

# page_block PAGE HEADING LANGUAGE: the first block of that language below that heading, without its indent.
page_block() {
  awk -v heading="$2" -v open='^ *```' -v language="$3" '
    /^#+ /                                       { here = (index($0, heading) > 0) }
    here && !done && $0 ~ open language "$"      { inside = 1; next }
    inside && $0 ~ open                          { inside = 0; done = 1 }
    inside                                       { sub(/^   /, ""); print }' "$1"
}

# with_keys TEXT: each "NAME=U…" with the public key that NAME has.
with_keys() {
  local text=$1 name
  for name in "${!public_key[@]}"; do text=${text//"$name=U…"/"$name=${public_key[$name]}"}; done
  printf '%s\n' "$text"
}
