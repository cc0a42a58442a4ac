#!/usr/bin/env bash
# Lingudesk's buckets in an S3-compatible store, with their policies and the lifetime of `temp`. May run again and
# again: it makes what is missing and sets what has changed. S3_ENDPOINT, MINIO_ROOT_USER, MINIO_ROOT_PASSWORD.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
for name in S3_ENDPOINT MINIO_ROOT_USER MINIO_ROOT_PASSWORD; do
    if [ -z "${!name:-}" ]; then
        echo "$name is empty: ./setup.sh writes it into .env" >&2
        exit 1
    fi
done
export AWS_ACCESS_KEY_ID="$MINIO_ROOT_USER" AWS_SECRET_ACCESS_KEY="$MINIO_ROOT_PASSWORD"
export AWS_DEFAULT_REGION="${S3_REGION:-us-east-1}" AWS_EC2_METADATA_DISABLED=true AWS_PAGER=''

s3api() { aws --endpoint-url "$S3_ENDPOINT" --output text s3api "$@"; }

existing=" $(s3api list-buckets --query 'Buckets[].Name' | tr '\t\n' '  ') "
make_bucket() {
    if [[ "$existing" != *" $1 "* ]]; then s3api create-bucket --bucket "$1" >/dev/null; fi
}
public_read() {
    make_bucket "$1"
    s3api put-bucket-policy --bucket "$1" --policy "$(sed "s/BUCKET/$1/" "$HERE/public-read.json")"
}
# A new bucket has no policy, and so is private; one that was there may have been opened by hand.
private() {
    if [[ "$existing" == *" $1 "* ]]; then s3api delete-bucket-policy --bucket "$1"; else make_bucket "$1"; fi
}

public_read media       # what users upload: images, audio
public_read static      # what belongs to the application
private ai-cache        # what the plugins generated
private backups         # copies of the database's backups
private temp            # whatever is needed for a moment
s3api put-bucket-lifecycle-configuration --bucket temp --lifecycle-configuration "file://$HERE/temp-lifecycle.json"

echo "Buckets: media and static (public read), ai-cache, backups and temp (private; temp forgets after 24 hours)"
