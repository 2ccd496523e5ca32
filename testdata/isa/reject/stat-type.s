; Statistics in a narrower type.
; expect: form in launch 0 (kernel copy), instruction 1 `stat min, b0+:v3, b2-:v2` of RE: an operand is bf16, not f32 [/layer/Copy]
object "stat-type" target "mtia-300" hbm 512 sram 0

origin o0 "/layer/Copy" "Identity"

kernel k0 "copy" grid 1x1x1x1 {
  tensor r0 in bytes 256 planes 0 256 256
  tensor r1 out bytes 256 planes 0 256 256
  buffer b0 "x" local 512 x 2
  buffer b1 "y" local 512 x 2
  buffer b2 "acc" bank 512 x 2
  view v0 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v1 f32 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v2 f32 local k4 offset 0 (1:64, 1:64, 1:64, 1:64, 64:1)
  view v3 bf16 local k4 offset 0 (1:1, 1:1, 1:1, 1:1, 1:1)
  constant c0 0x0
  code:
    zero b2+:v2
    stat min, b0+:v3, b2-:v2
    pop b0, n=1
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
