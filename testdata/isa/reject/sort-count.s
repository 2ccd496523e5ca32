; Five results in a row of four.
; expect: shape-mismatch in launch 0 (kernel copy), instruction 1 `sort b1+:v4, b0-:v3, k=5` of SE: 5 results for each row of [1, 1, 1, 1, 64] in a box of [1, 1, 1, 1, 4] [/layer/Copy]
object "sort-count" target "mtia-300" hbm 512 sram 0

origin o0 "/layer/Copy" "Identity"

kernel k0 "copy" grid 1x1x1x1 {
  tensor r0 in bytes 256 planes 0 256 256
  tensor r1 out bytes 256 planes 0 256 256
  buffer b0 "x" local 512 x 2
  buffer b1 "y" local 512 x 2
  view v0 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v1 f32 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v2 f32 local k4 offset 0 (1:64, 1:64, 1:64, 1:64, 64:1)
  view v3 f32 local k4 offset 0 (1:64, 1:64, 1:64, 1:64, 64:1)
  view v4 i64 local k4 offset 0 (1:4, 1:4, 1:4, 1:4, 4:1)
  constant c0 0x0
  code:
    ld b0+:v2, v0
    sort b1+:v4, b0-:v3, k=5
    pop b1, n=1
    halt
}

entry e0 "main" {
  input "x" f32 (64) hbm:0
  output "y" f32 (64) hbm:256
  launch #0 k0 (hbm:0, hbm:256) o0
  code:
    launch #0
    halt
}

weights 0 {
}
