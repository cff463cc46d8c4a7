#!/bin/sh
# Serve the page in a container, with one account. Other machines can reach it, so it always has a login.
set -eu
: "${ABQ_DATA_DIR:?Set ABQ_DATA_DIR to the folder that holds all data.}"
: "${ABQ_PASSWORD:?Set ABQ_PASSWORD to the password of the page, and ABQ_ACCOUNT to the account (default: visitor).}"
accounts="$ABQ_DATA_DIR/accounts"
printf '%s\n' "$ABQ_PASSWORD" | abq auth set-password "${ABQ_ACCOUNT:-visitor}" --file "$accounts"
unset ABQ_PASSWORD
# Hugging Face Spaces tell their host name in SPACE_HOST.
exec abq app --host "${HOST:-0.0.0.0}" --port "${PORT:-7860}" --auth "$accounts" --behind-proxy \
    ${SPACE_HOST:+--public-name "$SPACE_HOST"}
