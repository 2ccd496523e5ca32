; Seven flags for eight rows.
; expect: shape-mismatch in launch 0 (kernel copy), instruction 1 `ldmask b0+:v2, v0, b1-:v3, dim=3` of FI.load: 7 indices for 8 [/layer/Copy]
object "ldmask-size" target "mtia-300" hbm 512 sram 0

origin o0 "/layer/Copy" "Identity"

kernel k0 "copy" grid 1x1x1x1 {
  tensor r0 in bytes 256 planes 0 256 256
  tensor r1 out bytes 256 planes 0 256 256
  buffer b0 "x" local 256 x 1
  buffer b1 "f" local 8 x 1
  view v0 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 8:8<8, 8:1<8)
  view v1 f32 global r1 k4 offset 0 (1:0, 1:0, 1:0, 8:8<8, 8:1<8)
  view v2 f32 local k4 offset 0 (1:64, 1:64, 1:64, 8:8, 8:1)
  view v3 bool local k4 offset 0 (1:7, 1:7, 1:7, 7:1, 1:1)
  constant c0 0x0
  code:
    fill b1+:v3, c0
    ldmask b0+:v2, v0, b1-:v3, dim=3
    st b0-:v2, v1
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
