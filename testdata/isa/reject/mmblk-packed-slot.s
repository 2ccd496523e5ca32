; Packed blocks that reach past their slot, set or not.
; expect: slot-bounds in launch 0 (kernel copy), instruction 2 `mmblk b2+:v5, b0:v3, b0:v4, b3:v6, packed=true` of DPE on PE [0, 0, 0, 0]: elements 0 to 71 of a slot of 64 [/layer/Copy]
object "mmblk-packed-slot" target "mtia-300" hbm 512 sram 0

origin o0 "/layer/Copy" "Identity"

kernel k0 "copy" grid 1x1x1x1 {
  tensor r0 in bytes 256 planes 0 256 256
  tensor r1 out bytes 256 planes 0 256 256
  buffer b0 "x" local 512 x 2
  buffer b1 "y" local 512 x 2
  buffer b2 "acc" bank 512 x 2
  buffer b3 "m" local 512 x 2
  view v0 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v1 f32 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v2 f32 local k4 offset 0 (1:64, 1:64, 1:64, 1:64, 64:1)
  view v3 f32 local k4 offset 0 (1:16, 2:8, 1:8, 1:8, 8:1)
  view v4 f32 local k4 offset 0 (9:8, 1:8, 1:8, 2:4, 4:1)
  view v5 f32 local k4 offset 0 (1:8, 1:8, 1:8, 2:4, 4:1)
  view v6 bool local k4 offset 0 (1:4, 1:4, 1:4, 4:1, 1:1)
  constant c0 0x0
  code:
    ld b0+:v2, v0
    fill b3+:v6, c0
    mmblk b2+:v5, b0:v3, b0:v4, b3:v6, packed=true
    pop b0, n=1
    pop b3, n=1
    pop b2, n=1
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
