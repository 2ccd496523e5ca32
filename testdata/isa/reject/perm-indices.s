; Indices are floats.
; expect: form in launch 0 (kernel copy), instruction 2 `perm b1+:v0, b0-:v2, b1-:v0, dim=4` of MLU: indices are f32, not i32 or i64 [/layer/Copy]
object "perm-indices" target "mtia-300" hbm 256 sram 0

origin o0 "/layer/Copy" "Identity"

kernel k0 "copy" grid 1x1x1x1 {
  tensor r0 out bytes 256 planes 0 256 256
  buffer b0 "x" local 256 x 2
  buffer b1 "y" local 256 x 2
  view v0 f32 local k4 offset 0 (1:64, 1:64, 1:64, 1:64, 64:1)
  view v1 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v2 f32 local k4 offset 0 (1:64, 1:64, 1:64, 1:64, 64:1<64)
  constant c0 0x0
  code:
    fill b0+:v0, c0
    fill b1+:v0, c0
    perm b1+:v0, b0-:v2, b1-:v0, dim=4
    st b1-:v0, v1
    halt
}

entry e0 "main" {
  output "y" f32 (64) hbm:0
  launch #0 k0 (hbm:0) o0
  code:
    launch #0
    halt
}

weights 0 {
}
