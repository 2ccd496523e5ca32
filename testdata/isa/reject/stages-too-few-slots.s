; Stage 0 of the second round pushes before stage 1 has freed the first slot.
; expect: push-full in launch 0 (kernel copy), instruction 1 `ld b0+:v2, v0` of FI.load on PE [0, 0, 0, 0]: all 1 slots of buffer x are in use [/layer/Copy]
object "stages-too-few-slots" target "mtia-300" hbm 512 sram 0

origin o0 "/layer/Copy" "Identity"

kernel k0 "copy" grid 1x1x1x1 {
  tensor r0 in bytes 256 planes 0 256 256
  tensor r1 out bytes 256 planes 0 256 256
  buffer b0 "x" local 128 x 1
  view v0 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 32:1<64) l0:d4+32
  view v1 f32 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 32:1<64) l0:d4+32
  view v2 f32 local k4 offset 0 (1:32, 1:32, 1:32, 1:32, 32:1)
  trip t0 2 max 2
  code:
    loop t0, l0, stages=2
    ld b0+:v2, v0
    st.s1 b0-:v2, v1
    end
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
