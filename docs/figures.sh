#!/bin/sh
# Makes the figures of docs/figures.md from models/mnist32.
# MNIST is a folder with its four files; DDPM_INCEPTION names the Inception weights; OUT must not exist. $DDPM: the program.
set -eu
if [ $# -ne 2 ]; then
    echo "usage: docs/figures.sh MNIST OUT" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
model=$here/../models/mnist32
test=mnist:$1:test
out=$2
ddpm=${DDPM:-ddpm}
mkdir "$out"

"$ddpm" progressive "$model" --n 8 --steps 500 --shared-t 1000,900,800,700,600,500,250 --out "$out/progressive"
"$ddpm" progressive "$model" --n 256 --frames 10 --sampler ddim --steps 50 --data "$test" --fid --reference-n 1000 --dims 192 \
    --out "$out/quality"
"$ddpm" interpolate "$model" --data "$test" --members 0,1 --members 7,8 --members 15,61 --t 400 --steps 250 --out "$out/between"
"$ddpm" interpolate "$model" --data "$test" --members 0,1 --members 7,8 --members 15,61 --t 400 --steps 250 --mixing spherical \
    --out "$out/arc"
"$ddpm" interpolate "$model" --data "$test" --members 17,18 --t 0,125,250,375,500,625,750,875,1000 --steps 250 --out "$out/coarse"
"$ddpm" interpolate "$model" --data "$test" --members 17,18 --mask "$here/images/mask.png" --t 400 --steps 250 --out "$out/masked"
"$ddpm" interpolate "$model" --data "$test" --pairs 16 --lambdas 0,1 --t 0,125,250,375,500,625,750,875,1000 \
    --sampler ddim --steps 50 --feature-distance --dims 768 --out "$out/kept"
