; The second operand is read past its slot.
; expect: slot-bounds in launch 0 (kernel copy), instruction 1 `merge b1+:v3, b0:v3, b0:v4, k=8` of SE on PE [0, 0, 0, 0]: elements 1 to 8 of a slot of 8 [/layer/Copy]
object "merge-bounds" target "mtia-300" hbm 512 sram 0

origin o0 "/layer/Copy" "Identity"

kernel k0 "copy" grid 1x1x1x1 {
  tensor r0 in bytes 256 planes 0 256 256
  tensor r1 out bytes 256 planes 0 256 256
  buffer b0 "x" local 512 x 2
  buffer b1 "y" local 512 x 2
  view v0 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v1 f32 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v2 f32 local k4 offset 0 (1:64, 1:64, 1:64, 1:64, 64:1)
  view v3 i64 local k4 offset 0 (1:8, 1:8, 1:8, 1:8, 8:1)
  view v4 i64 local k4 offset 1 (1:8, 1:8, 1:8, 1:8, 8:1)
  constant c0 0x0
  code:
    fill b0+:v3, c0
    merge b1+:v3, b0:v3, b0:v4, k=8
    pop b0, n=1
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
